#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes docs/reference from the API, the plugins' arguments and the commands. verify-reference.sh sends it elsewhere by OUT.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-docs/reference}
go run ./hack/reference . "$out"
