#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Generates the code and the CRDs anew, elsewhere, and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
OBJECTS="$tmp/objects" CRDS="$tmp/crds" hack/update-codegen.sh

api=pkg/apis/fogsched/v1alpha1
diff -u "$api/zz_generated.deepcopy.go" "$tmp/objects/zz_generated.deepcopy.go" &&
  diff -u -x kustomization.yaml manifests/base/crds "$tmp/crds" ||
  { echo "the generated files are out of date: run 'make update'" >&2; exit 1; }
