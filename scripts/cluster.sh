#!/usr/bin/env bash
# Tests what is about Kubernetes, on this machine. The programs of the cluster come from a
# directory of earlier builds or an archive. Without either, etcd and the API server are
# built from their Go modules, which takes long.
#   cluster.sh          against etcd and an API server: the router's client, the manifests,
#                       also as a chart of Helm
#   cluster.sh --nodes  then on a cluster of two nodes, which it brings up: gates through
#                       the router, a rolling restart, a killed cell
#   cluster.sh --all    then without a router, the API server, and each of the nodes
# The nodes need root, and programs that only the archive has: the kubelet, the scheduler,
# the controller manager, containerd, the plugins for networks. LEVEL=capabilities or
# privileged tries these rights; KEEP=1 leaves the cluster up and says how to end it.
# usage: [DREAMCORE_TEST_CLUSTER=DIR] [DREAMCORE_TEST_CLUSTER_ARCHIVE=FILE.tar.zst] scripts/cluster.sh [--nodes | --all] [GO TEST FLAGS ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go
nodes=''
case ${1:-} in --nodes | --all) nodes=$1; shift ;; esac

programs=${DREAMCORE_TEST_CLUSTER:-bin/cluster}
mkdir -p "$programs"
programs=$(cd "$programs" && pwd)
version=$(sed -n 's|^\tk8s.io/kubernetes \(v[^ ]*\)$|\1|p' testdata/cluster/hyper/go.mod)
if [ ! -x "$programs/hyper" ] && [ -n "${DREAMCORE_TEST_CLUSTER_ARCHIVE:-}" ]; then
  need_commands zstd=zstd
  tar --zstd -xf "$DREAMCORE_TEST_CLUSTER_ARCHIVE" -C "$programs"
fi
if [ ! -x "$programs/hyper" ]; then
  say "building etcd and the API server of Kubernetes $version"
  minor=${version#*.}
  pkg=k8s.io/component-base/version
  (cd testdata/cluster/hyper && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=${minor%%.*}" -o "$programs/hyper" .)
fi
export DREAMCORE_TEST_CLUSTER=$programs
packages=(./pkg/cluster/... ./pkg/operate/kubernetes)
say "go vet"
go vet -tags cluster "${packages[@]}" ./cmd/dreamcore/e2e/nodes
say "go test, with Helm"
(cd testdata/cluster/helm && CGO_ENABLED=0 go test -count=1 ./...)
say "go test, against Kubernetes $version"
go test -race -tags cluster -count=1 -timeout 10m "$@" "${packages[@]}"
# Users move between two services: as root, with the built program and the agent.
if [ -n "${DREAMCORE_TEST_BINARY:-}" ] && [ -n "${DREAMCORE_TEST_CLAUDE:-}" ] && [ $# -eq 0 ]; then
  say "go test, with services"
  go vet -tags cluster ./cmd/dreamcore/e2e
  go test -race -tags cluster -count=1 -timeout 20m -run 'TestAUserMovesWhile|TestACutJobGoesOn|TestACellIsEmptied' ./cmd/dreamcore/e2e
fi
[ -n "$nodes" ] || exit 0

[ "$(id -u)" = 0 ] || die "the nodes need root" "run this as root"
"$programs/hyper" kubelet --version >/dev/null 2>&1 || die "$programs/hyper has no kubelet, only what this script builds" "set DREAMCORE_TEST_CLUSTER_ARCHIVE to an archive that has all programs, and remove $programs"
for p in containerd ctr containerd-shim-runc-v2 bridge host-local loopback pause mkimg; do
  [ -x "$programs/$p" ] || die "there is no $p in $programs" "set DREAMCORE_TEST_CLUSTER_ARCHIVE to an archive that has it"
done
need_commands ip=iproute2 nsenter=util-linux openssl=openssl
command -v kubectl >/dev/null || die "there is no kubectl on this machine" "install it, then run this again"
export DREAMCORE_TEST_BINARY=${DREAMCORE_TEST_BINARY:-$PWD/bin/dreamcore} DREAMCORE_TEST_CLUSTER_IMAGE=registry.example.com/dreamcore:test DREAMCORE_TEST_LEVEL=${LEVEL:-unprivileged}
[ -x "$DREAMCORE_TEST_BINARY" ] || REQUIRE_RUNC=1 scripts/build.sh "$DREAMCORE_TEST_BINARY"
zcat pkg/sandbox/runc/embedded/amd64/runc.gz >"$programs/runc"
chmod +x "$programs/runc"

run=$(mktemp -d /tmp/dreamcore-nodes.XXXX) # the paths of sockets in it must be short
chmod 711 "$run"
down() {
  if [ -n "${KEEP:-}" ]; then say "it stays up; end it with: scripts/cluster/nodes.sh down $run"; else scripts/cluster/nodes.sh down "$run"; fi
}
trap down EXIT

say "making the image"
agent=${DREAMCORE_TEST_CLAUDE:-$(agent_program)}
mkdir -p "$run/images" "$run/pause"
"$DREAMCORE_TEST_BINARY" deploy --kubernetes --image "$DREAMCORE_TEST_CLUSTER_IMAGE" --output "$run/manifests" >/dev/null
context=$run/manifests/image
ln "$agent" "$context/claude" 2>/dev/null || cp "$agent" "$context/claude"
ln "$DREAMCORE_TEST_BINARY" "$context/dreamcore" 2>/dev/null || cp "$DREAMCORE_TEST_BINARY" "$context/dreamcore"
CACHE=$programs MKIMG=$programs/mkimg scripts/cluster/image.sh "$context" "$DREAMCORE_TEST_CLUSTER_IMAGE" "$run/images/cell.tar"
cp "$programs/pause" "$run/pause/"
tar -C "$run/pause" -cf "$run/images/layer.tar" pause
"$programs/mkimg" "$run/images/pause.tar" registry.example.com/pause:1 /pause "$run/images/layer.tar"

say "bringing up a cluster of two nodes"
began=$SECONDS
scripts/cluster/nodes.sh up "$run" "$programs" "$run/images/pause.tar" "$run/images/cell.tar"
echo "measured: the control plane and two nodes with the images are up after $((SECONDS - began)) s"
go test -race -c -tags cluster -o "$run/nodes.test" ./cmd/dreamcore/e2e/nodes
tests=TestCells
[ "$nodes" != --all ] || tests='TestCells|TestLosses'
DREAMCORE_TEST_NODES=$run scripts/cluster/nodes.sh in "$run" "$run/nodes.test" -test.run "$tests" -test.v -test.failfast -test.timeout 60m
