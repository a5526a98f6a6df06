#!/usr/bin/env bash
# Tests what talks to Kubernetes, against etcd and an API server on this machine. They
# come from a directory of earlier builds, an archive of it, or are built from their Go
# modules, which takes long.
# usage: [DREAMCORE_TEST_CLUSTER=DIR] [DREAMCORE_TEST_CLUSTER_ARCHIVE=FILE.tar.zst] scripts/cluster.sh [GO TEST FLAGS ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go

programs=${DREAMCORE_TEST_CLUSTER:-bin/cluster}
mkdir -p "$programs"
programs=$(cd "$programs" && pwd)
version=$(sed -n 's|^\tk8s.io/kubernetes \(v[^ ]*\)$|\1|p' testdata/cluster/hyper/go.mod)
if [ ! -x "$programs/hyper" ] && [ -n "${DREAMCORE_TEST_CLUSTER_ARCHIVE:-}" ]; then
  need_commands zstd=zstd
  tar --zstd -xf "$DREAMCORE_TEST_CLUSTER_ARCHIVE" -C "$programs" hyper
fi
if [ ! -x "$programs/hyper" ]; then
  say "building etcd and the API server of Kubernetes $version"
  minor=${version#*.}
  pkg=k8s.io/component-base/version
  (cd testdata/cluster/hyper && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=${minor%%.*}" -o "$programs/hyper" .)
fi
export DREAMCORE_TEST_CLUSTER=$programs
say "go vet"
go vet -tags cluster ./pkg/cluster/...
say "go test, against Kubernetes $version"
go test -race -tags cluster -count=1 -timeout 10m "$@" ./pkg/cluster/...
# Users move between two services: as root, with the built program and the agent.
if [ -n "${DREAMCORE_TEST_BINARY:-}" ] && [ -n "${DREAMCORE_TEST_CLAUDE:-}" ] && [ $# -eq 0 ]; then
  say "go test, with services"
  go vet -tags cluster ./cmd/dreamcore/e2e
  go test -race -tags cluster -count=1 -timeout 20m -run 'TestAUserMovesWhile|TestACutJobGoesOn|TestACellIsEmptied' ./cmd/dreamcore/e2e
fi
