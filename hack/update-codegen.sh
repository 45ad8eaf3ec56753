#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Generates the API's deep copies and its CRDs. verify-codegen.sh sends them elsewhere by OBJECTS and CRDS.
set -euo pipefail
cd "$(dirname "$0")/.."

make -s bin/controller-gen
bin/controller-gen object:headerFile=hack/boilerplate.go.txt crd paths=./pkg/apis/... \
  "output:object:dir=${OBJECTS:-pkg/apis/fogsched/v1alpha1}" "output:crd:dir=${CRDS:-manifests/base/crds}"
