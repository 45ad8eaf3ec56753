#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# iptables of the flavour that the node uses: its kubelet leaves a chain in the mangle table as a hint.
case $(xtables-nft-multi iptables-save -t mangle 2>/dev/null) in
*KUBE-IPTABLES-HINT*) flavour=nft ;;
*) flavour=legacy ;;
esac
exec "xtables-$flavour-multi" "${0##*/}" "$@"
