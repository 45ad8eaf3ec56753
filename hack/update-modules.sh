#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."

for mod in go.mod hack/tools/*/go.mod; do
  (cd "$(dirname "$mod")" && go mod tidy)
done
