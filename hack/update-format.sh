#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."

make -s bin/gofumpt
bin/gofumpt -l -w cmd hack pkg test
