#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Puts smokeping_prober into the file that is named, from Debian's package, of which nothing is installed. It is the one program of
# the tests that is not built here: not every Go module proxy serves its module, so there is no go.sum to pin it by. apt checks the
# package against Debian's signatures.
set -euo pipefail
out=$(realpath -m "${1:?usage: $0 FILE}")
package=prometheus-smokeping-prober

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Where there is no Debian, its module in the same version, if the proxy has it.
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  if GOBIN=$tmp go install github.com/superq/smokeping_prober@v0.6.1 >"$tmp/log" 2>&1; then
    install -m 755 "$tmp/smokeping_prober" "$out"
    exit 0
  fi
  cat "$tmp/log" >&2
  echo "cannot build smokeping_prober from its module; put the program (0.6 or newer) into $out" >&2
  exit 1
fi

chmod 755 "$tmp"
cd "$tmp"

download() { apt-get download -qq -o APT::Sandbox::User=root "$package" >"$tmp/log" 2>&1; }
# The package lists are missing or old on a fresh machine.
download || { [[ $(id -u) == 0 ]] && apt-get update -qq >>"$tmp/log" 2>&1 && download; } || {
  cat "$tmp/log" >&2
  echo "cannot download $package; 'apt-get update' as root may help" >&2
  exit 1
}
dpkg-deb -x ./"$package"_*.deb root
install -m 755 root/usr/bin/prometheus-smokeping-prober "$out"
