#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Copies the CRDs into the Helm chart, which can hold no file from outside of its folder. verify-helm.sh compares.
set -euo pipefail
cd "$(dirname "$0")/.."
cp manifests/base/crds/fogsched.dev_*.yaml charts/fogsched/files/crds/
