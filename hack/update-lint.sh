#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Mends what the linters can mend by themselves; verify-lint.sh lists the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

make -s bin/golangci-lint
bin/golangci-lint run --timeout 20m --fix || true
