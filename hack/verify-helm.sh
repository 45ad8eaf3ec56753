#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Whether the chart has the CRDs of the manifests. That the rest of it is the same, too, is a test's (test/manifests).
set -euo pipefail
cd "$(dirname "$0")/.."
diff -u -x kustomization.yaml manifests/base/crds charts/fogsched/files/crds ||
  { echo "the chart's CRDs are out of date: run 'make update'" >&2; exit 1; }
