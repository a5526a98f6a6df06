#!/usr/bin/env bash
# Builds the programs of sandboxes, for the program to embed: dreamcore-init (the
# supervisor) and dreamcore-check (the check of games) in
# pkg/sandbox/engine/embedded/ARCH, and the sums of their sources.
# usage: scripts/supervisor.sh [ARCH]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go
arch=${1:-$(go env GOARCH)}
out=pkg/sandbox/engine/embedded/$arch
stamp=$(sha256sum go.mod go.sum scripts/supervisor.sh; go version)

# build NAME SUM STAMP SOURCES... builds cmd/NAME unless its sources are unchanged.
build() {
  local name=$1 sums=$2 mark=$3 sum
  shift 3
  sum=$(find "$@" ! -name '*_test.go' -exec sha256sum {} + | cut -d' ' -f1 | LC_ALL=C sort | sha256sum | cut -d' ' -f1)
  if [ -s "$out/$name" ] && [ "$(cat "$out/$sums" 2>/dev/null)" = "$sum" ] && [ "$(cat "$out/$mark" 2>/dev/null)" = "$stamp" ]; then return; fi
  rm -f "$out/$mark"
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$out/$name" "./cmd/$name"
  printf '%s\n' "$sum" >"$out/$sums"
  printf '%s\n' "$stamp" >"$out/$mark"
}

build dreamcore-init sources.sum .stamp pkg/sandbox/pid1/*.go pkg/sandbox/*.go pkg/sandbox/gvisor/boot/*.go cmd/dreamcore-init/*.go
build dreamcore-check check.sum .check-stamp pkg/work/acceptance/*/*.go pkg/work/acceptance/browser/*.js pkg/system/mediatype/*.go cmd/dreamcore-check/*.go
