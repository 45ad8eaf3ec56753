#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every check, also when an earlier one fails, and says at the end which did. The checks change no file, so they may run
# on a tree with work in it.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
for script in hack/verify-*.sh; do
  [[ $script == hack/verify-all.sh ]] && continue
  echo "== $script"
  "$script" || failed+=("$script")
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
echo "all checks passed"
