#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prints the linker's flags for our programs: ldflags.sh VERSION COMMIT. Makefile, Dockerfile and release all ask here. It calls
# nothing but the shell, so that it runs in any image that has Go.
set -eu
cd "${0%/*}/../.."

kube=
while read -r module version _; do
  case $module:$version in
  k8s.io/kubernetes:v1.*) kube=$version ;;
  esac
done <go.mod
[ -n "$kube" ] || { echo "ldflags.sh: go.mod requires no k8s.io/kubernetes v1" >&2; exit 1; }
minor=${kube#v1.}

# Kubernetes derives its feature gates from this version, so ours stands behind the plus sign.
version=$kube+fogsched.$1
echo "-s -w \
-X k8s.io/component-base/version.gitVersion=$version \
-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*} \
-X k8s.io/component-base/version.gitCommit=$2 \
-X k8s.io/client-go/pkg/version.gitVersion=$version \
-X main.version=$1"
