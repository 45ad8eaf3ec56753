#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Go files are formatted by gofumpt and begin with the licence.
set -euo pipefail
cd "$(dirname "$0")/.."

make -s bin/gofumpt
status=0
unformatted=$(bin/gofumpt -l cmd hack pkg test)
if [[ $unformatted ]]; then
  printf 'not formatted by gofumpt (make update mends it):\n%s\n' "$unformatted" >&2
  status=1
fi
header=$(head -n 1 hack/boilerplate.go.txt)
while IFS= read -r -d '' file; do
  if ! head -n 3 "$file" | grep -qxF -- "$header"; then
    echo "$file: does not begin with '$header'" >&2
    status=1
  fi
done < <(find cmd hack pkg test -name '*.go' -print0)
exit $status
