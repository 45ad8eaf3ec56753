#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a kind node image of Kubernetes ${KUBE_VERSION} as a docker archive, and builds it first where it is not
# in the cache folder yet: for machines from which no container registry can be reached. Everything comes from Debian packages
# and Go modules. It needs root (debootstrap), but no container engine. Progress goes to stderr.
#
# The image is what kind's documentation calls a node image, with these differences: Debian's runc, CoreDNS with the plugins of
# kubeadm's Corefile only, a stand-in for kindnetd (hack/kind/kindnetd), and no storage provisioner.
set -euo pipefail
cd "$(dirname "$0")/../.."

KUBE_VERSION=${KUBE_VERSION:-v1.35.4}
SUITE=bookworm
ARCH=$(go env GOARCH)
CACHE=${FOGSCHED_KIND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fogsched/kind}

say() { echo "node image: $*" >&2; }
die() { say "$*"; exit 1; }

# What the image is made of. The programs are named by the modules that pin them.
inputs() {
  echo "$KUBE_VERSION $SUITE $ARCH"
  sha256sum hack/tools/cluster/go.{mod,sum} hack/tools/kind/go.{mod,sum} hack/tools/kind/coredns/*.go test/kind/archive.go
  find hack/kind -type f -print0 | sort -z | xargs -0 sha256sum
}
key=$(inputs | sha256sum | cut -c 1-16)
archive=$CACHE/node-$KUBE_VERSION-$key.tar

mkdir -p "$CACHE"
# Two runs at once would build the same thing twice.
exec 9>"$CACHE/lock"
flock 9
if [[ -f $archive ]]; then
  touch "$archive"
  echo "$archive"
  exit
fi

say "building $archive (once; about 8 min on two cores, of which 5 compile)"
[[ $(id -u) == 0 ]] || die "debootstrap needs root: run as root, or set KIND_NODE_IMAGE to an image that a registry has"
[[ $(uname -s) == Linux ]] || die "only on Linux; elsewhere set KIND_NODE_IMAGE to an image that a registry has"

began=$SECONDS
step() {
  say "$1 (about $2) …"
}

if ! command -v debootstrap >/dev/null || [[ ! -f /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
  command -v apt-get >/dev/null || die "debootstrap is missing: install it"
  step "installing debootstrap" "15 s"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring; } >&2
fi

work=$(mktemp -d "$CACHE/build.XXXXXX")
sockets=$(mktemp -d /tmp/fogsched-kind.XXXXXX) # a socket's path must be short
# What ends must be ended whole: containerd, and the mounts that an interrupted debootstrap leaves.
containerd_pid=
finish() {
  if [[ -n $containerd_pid ]]; then
    kill "$containerd_pid" 2>/dev/null && wait "$containerd_pid" 2>/dev/null || true
  fi
  awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l || true
  rm -rf --one-file-system "$work" "$sockets"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# What an earlier build left that was killed.
for old in "$CACHE"/build.*; do
  [[ $old == "$work" ]] || { awk -v dir="$old/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l; rm -rf --one-file-system "$old"; }
done

# The programs. etcd, API server, controller manager and scheduler are the ones that the integration tests use.
step "compiling Kubernetes, containerd, CoreDNS, the CNI plugins where they are not built yet" "5 min"
programs=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubeadm kube-proxy kubectl
  containerd containerd-shim-runc-v2 ctr coredns host-local loopback portmap ptp)
MAKEFLAGS='' make --silent "${programs[@]/#/bin/}" >&2
GOFLAGS=-buildvcs=false CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/" ./hack/kind/pause ./hack/kind/kindnetd ./test/kind/archive

# The base: what kind's own has, from one debootstrap.
step "installing Debian $SUITE" "70 s"
mirror=${DEBIAN_MIRROR:-}
if [[ -z $mirror ]] && command -v apt-get >/dev/null; then
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$SUITE" '$1 == "Debian" && $2 == suite && $3 == "main" { print $4; exit }') || true
fi
packages=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2
packages+=,ca-certificates,curl,jq,procps,hostname,runc
root=$work/root
debootstrap --variant=minbase --arch="$(dpkg --print-architecture)" --include="$packages" \
  "$SUITE" "$root" "${mirror:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 ||
  { tail -n 20 "$work/debootstrap.log" >&2; die "debootstrap failed; set DEBIAN_MIRROR to a mirror that can be reached"; }

step "putting the node together" "30 s"
rm -rf "$root"/var/cache/{apt,debconf}/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/* "$root"/var/log/*
# kind's files come from its module.
files=$(cd hack/tools/kind && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files
cp -r --no-preserve=mode,ownership "$files/." "$root/"
chmod 0755 "$root"/usr/local/bin/{entrypoint,clean-install} "$root"/kind/bin/*
rm -f "$root"/etc/systemd/system/containerd-fuse-overlayfs.service
# As in kind's base: nothing of Debian's own units starts.
rm -f "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
  "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$root"/etc/systemd/system/*.wants/* \
  "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}*
echo "ReadKMsg=no" >>"$root/etc/systemd/journald.conf"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
for unit in kubelet containerd undo-mount-hacks; do
  ln -s "/etc/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/"
done
ln -sf /dev/null "$root/etc/systemd/system/systemd-binfmt.service"
# Where the machine's bounding set lacks CAP_SYS_RESOURCE no process can be made less likely to be killed than its parent is.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"

mkdir -p "$root"/opt/cni/bin "$root"/etc/kubernetes/manifests "$root"/kind/manifests
install -m 0755 bin/{host-local,loopback,portmap,ptp} "$root/opt/cni/bin/"
install -m 0755 bin/{containerd,containerd-shim-runc-v2,ctr} "$root/usr/local/bin/"
install -m 0755 bin/{kubeadm,kubelet,kubectl} "$root/usr/bin/"
bin/ctr oci spec | jq --arg hook /kind/bin/mount-product-files.sh \
  '.hooks.createContainer += [{path: $hook}] | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
echo -n "$KUBE_VERSION" >"$root/kind/version"
cp hack/kind/default-cni.yaml hack/kind/default-storage.yaml "$root/kind/manifests/"

# The images that kubeadm and kind's manifests name, one program each.
layer() { # name, then container path=file …
  local name=$1 pair
  shift
  rm -rf "$work/layer"
  for pair in "$@"; do
    install -D -m 0755 "${pair#*=}" "$work/layer/${pair%%=*}"
  done
  pack "$work/layer" "$name"
}
pack() { # folder, name
  tar --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -C "$1" -cf "$work/$2.tar" .
}
path=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
images=()
image() { # tag, entrypoint, layer …
  local out=$work/image-${#images[@]}.tar
  "$work/archive" -out "$out" -tag "$1" -entrypoint "$2" -env "$path" "${@:3}"
  images+=("$out")
}
tag_of() { grep -E "/$1:" "$work/tags" | head -n 1; }
bin/kubeadm config images list --kubernetes-version "$KUBE_VERSION" >"$work/tags"

for program in kube-apiserver kube-controller-manager kube-scheduler etcd; do
  layer "$program" "usr/local/bin/$program=bin/$program"
  image "$(tag_of "$program")" "/usr/local/bin/$program" "$work/$program.tar"
done
layer coredns "coredns=bin/coredns"
image "$(tag_of coredns)" /coredns "$work/coredns.tar"
layer pause "pause=$work/pause"
image "$(sed -n 's/.*sandbox_image = "\(.*\)".*/\1/p' "$root/etc/containerd/config.toml")" /pause "$work/pause.tar"

# kube-proxy and kindnetd call iptables, ip and conntrack: those programs, all of iptables' extensions, and every library that
# any of them needs. A missing libm.so.6 alone kills each Service of more than one endpoint.
tools=$work/tools
(
  cd "$root"
  shopt -s nullglob
  needed=(usr/sbin/xtables-nft-multi usr/sbin/xtables-legacy-multi usr/sbin/nft usr/sbin/conntrack bin/ip bin/dash
    usr/lib/*-linux-gnu/xtables/*.so)
  chroot . ldd "${needed[@]/#//}" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | sort -u >"$work/libraries"
  if chroot . ldd "${needed[@]/#//}" 2>/dev/null | grep 'not found' >&2; then
    exit 1
  fi
  for file in "${needed[@]}" $(sed 's,^/,,; s,:$,,' "$work/libraries"); do
    install -D -m 0755 "$file" "$tools/$file"
  done
)
install -D -m 0755 hack/kind/iptables.sh "$tools/usr/local/sbin/iptables"
for name in iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  ln -s iptables "$tools/usr/local/sbin/$name"
done
ln -s dash "$tools/bin/sh"
mkdir -p "$tools/run" "$tools/tmp"
chroot "$tools" /usr/sbin/xtables-nft-multi iptables --version >&2
pack "$tools" tools
layer kube-proxy "usr/local/bin/kube-proxy=bin/kube-proxy"
image "$(tag_of kube-proxy)" /usr/local/bin/kube-proxy "$work/tools.tar" "$work/kube-proxy.tar"
layer kindnetd "bin/kindnetd=$work/kindnetd"
image "$(sed -n 's/^ *image: *//p' hack/kind/default-cni.yaml)" /bin/kindnetd "$work/tools.tar" "$work/kindnetd.tar"

# containerd itself puts them where the node's containerd will look. It compresses the layers: every node gets a copy of them.
step "importing ${#images[@]} images" "20 s"
cat >"$work/containerd.toml" <<EOF
version = 3
root = "$root/var/lib/containerd"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.cri"]
[grpc]
  address = "$sockets/containerd.sock"
[ttrpc]
  address = "$sockets/ttrpc.sock"
EOF
bin/containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 9>&- &
containerd_pid=$!
ctr() { bin/ctr --address "$sockets/containerd.sock" --namespace k8s.io "$@"; }
for ((i = 0; ; i++)); do
  ctr version >/dev/null 2>&1 && break
  ((i < 100)) && kill -0 "$containerd_pid" 2>/dev/null || { tail -n 20 "$work/containerd.log" >&2; die "containerd did not start"; }
  sleep 0.1
done
for file in "${images[@]}"; do
  ctr images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --compress-blobs "$file" \
    >"$work/import.log" 2>&1 || { tail -n 5 "$work/import.log" >&2; die "containerd took no image"; }
done
ctr images list -q 2>/dev/null | sed 's/^/node image:   /' >&2
kill "$containerd_pid"
wait "$containerd_pid" || true
containerd_pid=

step "writing the archive" "10 s"
tar --numeric-owner --sort=name --xattrs --acls --one-file-system -C "$root" -cf "$work/node.tar" .
"$work/archive" -out "$work/archive.tar" -tag "fogsched/kind-node:$KUBE_VERSION-$key" -entrypoint "/usr/local/bin/entrypoint /sbin/init" \
  -env "$path container=docker" -stop-signal SIGRTMIN+3 "$work/node.tar"
mv "$work/archive.tar" "$archive"
# What nobody has asked for in a week.
find "$CACHE" -maxdepth 1 -name 'node-*.tar' -mtime +7 -delete
say "$archive: $(du -h "$archive" | cut -f 1), built in $((SECONDS - began)) s"
echo "$archive"
