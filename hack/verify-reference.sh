#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the reference anew, elsewhere, and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
OUT=$tmp hack/update-reference.sh
diff -ru docs/reference "$tmp" || { echo "docs/reference is out of date: run hack/update-reference.sh" >&2; exit 1; }
