#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Fuzzes one target for a while: hack/fuzz.sh PACKAGE TARGET TIME
set -euo pipefail
cd "$(dirname "$0")/.."
package=$1 target=$2 time=$3

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for attempt in 1 2; do
  if go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" >"$log" 2>&1; then
    if ! grep -q 'execs: ' "$log"; then # without such a target the go command is content, too
      cat "$log"
      exit 1
    fi
    printf '%-20s %s, %s\n' "$target" "$time" "$(grep -o 'execs: [0-9]*' "$log" | tail -n 1)"
    exit 0
  fi
  # The go command can end a run on its own deadline and call that a failure; a crash always leaves its input.
  if grep -q 'Failing input written' "$log" || ! grep -q 'context deadline exceeded' "$log" || ((attempt == 2)); then
    cat "$log"
    exit 1
  fi
done
