#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Copies what is generated (the CRDs, the alert rules, the dashboard) into the Helm chart, which can hold no file from outside of its
# folder. Its name comes after those of the scripts that generate. verify-packaging.sh sends the copies elsewhere by FILES.
set -euo pipefail
cd "$(dirname "$0")/.."

files=${FILES:-charts/fogsched/files}
mkdir -p "$files/crds" "$files/monitoring"
cp manifests/base/crds/fogsched.dev_*.yaml "$files/crds/"
cp manifests/components/monitoring/{prometheusrule.yaml,dashboard.json} "$files/monitoring/"
