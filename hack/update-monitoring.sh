#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the Grafana dashboard from hack/tools/monitoring/dashboard, and the operator's PrometheusRule from the rules file of Prometheus.
# verify-monitoring.sh sends them elsewhere by OUT.
set -euo pipefail
cd "$(dirname "$0")/.."

component=manifests/components/monitoring
out=${OUT:-$component}
mkdir -p "$out"
(cd hack/tools/monitoring && go run ./dashboard) >"$out/dashboard.json.tmp"
mv "$out/dashboard.json.tmp" "$out/dashboard.json"
{
  cat <<'END'
# SPDX-License-Identifier: Apache-2.0
#
# Made from rules.yaml by hack/update-monitoring.sh.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fogsched
  namespace: fogsched-system
  labels: {app.kubernetes.io/name: fogsched}
spec:
END
  sed -n '/^groups:/,$ { s/^\(.\)/  \1/; p }' "$component/rules.yaml"
} >"$out/prometheusrule.yaml"
