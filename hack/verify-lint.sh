#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The linters of .golangci.yml, among them the one that holds the direction of imports.
set -euo pipefail
cd "$(dirname "$0")/.."

make -s bin/golangci-lint
bin/golangci-lint run --timeout 20m
