#!/usr/bin/env bash
# Builds bin/dreamcore: one static program with gVisor compiled in and runc
# embedded, where that can be built (REQUIRE_RUNC=1: or else fail).
# usage: scripts/build.sh [OUTPUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-bin/dreamcore}
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
mkdir -p "$(dirname "$out")"
scripts/runc.sh "$(go env GOARCH)"
scripts/supervisor.sh "$(go env GOARCH)"
# cgo stays off: every build with it breaks gVisor's kernel.
CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=$version" -o "$out" ./cmd/dreamcore
echo "built $out ($version, $(du -h "$out" | cut -f1))"
