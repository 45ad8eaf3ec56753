#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the dashboard and the PrometheusRule anew, elsewhere, and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
OUT=$tmp hack/update-monitoring.sh

status=0
for file in dashboard.json prometheusrule.yaml; do
  diff -u "manifests/components/monitoring/$file" "$tmp/$file" || status=1
done
if ((status)); then
  echo "the monitoring component is out of date: run hack/update-monitoring.sh" >&2
fi
exit $status
