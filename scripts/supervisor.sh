#!/usr/bin/env bash
# Builds the supervisor of sandboxes, for the program to embed: dreamcore-init
# in pkg/sandbox/engine/embedded/ARCH, and the sum of its sources.
# usage: scripts/supervisor.sh [ARCH]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go
arch=${1:-$(go env GOARCH)}
out=pkg/sandbox/engine/embedded/$arch
sum=$(find pkg/sandbox/pid1/*.go pkg/sandbox/*.go pkg/sandbox/gvisor/boot/*.go cmd/dreamcore-init/*.go ! -name '*_test.go' -exec sha256sum {} + | cut -d' ' -f1 | LC_ALL=C sort | sha256sum | cut -d' ' -f1)
stamp=$(sha256sum go.mod go.sum scripts/supervisor.sh; go version)
if [ -s "$out/dreamcore-init" ] && [ "$(cat "$out/sources.sum" 2>/dev/null)" = "$sum" ] && [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
rm -f "$out/.stamp"
CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$out/dreamcore-init" ./cmd/dreamcore-init
printf '%s\n' "$sum" >"$out/sources.sum"
printf '%s\n' "$stamp" >"$out/.stamp"
