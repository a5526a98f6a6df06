#!/usr/bin/env bash
# The fast loop: format, vet, storeys and unit tests without a sandbox. Packages that
# have not changed cost nothing. scripts/test.sh runs everything.
# usage: scripts/check.sh [GO TEST FLAGS ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go

say "gofmt"
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || die "not formatted: $unformatted" "run: gofmt -w $(echo $unformatted)"
say "go vet"
CGO_ENABLED=0 go vet ./...
say "storeys"
CGO_ENABLED=0 go test -run 'TestPackagesImportDownwardsOnly|TestTheFoldersAreTheStoreys' ./cmd/dreamcore/e2e
say "unit tests"
# -short leaves out sandboxes, disks and everything else that takes seconds.
CGO_ENABLED=0 go test -short "$@" $(go list ./... | grep -vE '/e2e$|/gvisor/runsc$|/runc$|/gvisor$|/engine$')
say "all checks passed"
