#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Every go.mod and go.sum is as `go mod tidy` leaves it.
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
for mod in go.mod hack/tools/*/go.mod; do
  if ! (cd "$(dirname "$mod")" && go mod tidy -diff); then
    echo "$mod is not tidy: run 'make update'" >&2
    status=1
  fi
done
exit $status
