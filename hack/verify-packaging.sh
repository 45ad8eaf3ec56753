#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Whether the chart has the generated files as they are in manifests/. That the rest of it is the same, too, is a test's: test/manifests.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
FILES="$tmp" hack/update-packaging.sh
diff -ru charts/fogsched/files "$tmp" ||
  { echo "the chart's copies are out of date: run 'make update'" >&2; exit 1; }
