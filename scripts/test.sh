#!/usr/bin/env bash
# Installs what the tests need and runs them all, as CI does. Nothing may skip.
# usage: scripts/test.sh [GO TEST FLAGS ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME "$0" "$@"

need_go
need_commands git=git gcc=gcc npm=npm chromium=chromium systemd-analyze=systemd mkfs.ext4=e2fsprogs openssl=openssl
need_browser
gcc -E -x c - </dev/null >/dev/null 2>&1 && echo '#include <stdlib.h>' | gcc -E -x c - >/dev/null 2>&1 ||
  { as_root apt-get update -qq && as_root apt-get install -y -qq libc6-dev >&2; } # the race detector is C

say "gofmt"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || die "gofmt differs: $unformatted" "run: gofmt -w $(echo $unformatted)"

say "build"
REQUIRE_RUNC=1 scripts/build.sh bin/dreamcore
export DREAMCORE_TEST_BINARY=$PWD/bin/dreamcore DREAMCORE_TEST_NO_SKIP=1

say "the agent"
agent=$PWD/bin/agent
wanted=$(sed -n 's/^const Version = "\(.*\)"/\1/p' pkg/work/agent/install.go)
package=$(agent_package)
if [ "$(cat "$agent/version" 2>/dev/null)" != "$wanted" ]; then
  npm install --no-audit --no-fund --ignore-scripts --no-save --loglevel=error --prefix "$agent" "$package@$wanted" >&2
  echo "$wanted" >"$agent/version"
fi
DREAMCORE_TEST_CLAUDE=$(agent_program)
export DREAMCORE_TEST_CLAUDE

scripts/games.sh

say "go vet"
CGO_ENABLED=0 go vet ./...
say "staticcheck"
CGO_ENABLED=0 go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
say "govulncheck"
if out=$(CGO_ENABLED=0 go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./... 2>&1); then
  printf '%s\n' "$out" | tail -3
elif printf '%s' "$out" | grep -qE 'fetching vulnerabilities|dial tcp|no such host|connection refused|403|forbidden'; then
  echo "not run: the vulnerability database cannot be reached from here"
else
  printf '%s\n' "$out"; exit 1
fi

# The program itself is built without cgo and has no test of its own package
# under the race detector: gVisor does not work with it. Its tests run the
# built program.
say "go test, the program itself"
CGO_ENABLED=0 go test -count=1 ./cmd/dreamcore
say "alerts and dashboard, with the parser of Prometheus"
(cd testdata/monitoring && CGO_ENABLED=0 go test -count=1 ./...)
say "go test -race"
others=$(go list ./... | grep -vE '/cmd/dreamcore(/e2e)?$|/gvisor/runsc$')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# with_race LIMIT ARGUMENTS... runs tests. Sandboxes share the machine: packages run
# one after the other.
with_race() {
  local limit=$1
  shift
  go test -race -count=1 -p 1 -timeout "$limit" "$@" 2>&1 | tee -a "$log" || failed=yes
}
failed=
# A test that hangs is to fail soon, and only the end-to-end tests take long.
# shellcheck disable=SC2086
with_race 12m "$@" $others
with_race 45m "$@" ./cmd/dreamcore/e2e
if [ "$failed" ]; then
  # A crash prints thousands of lines behind its cause: the causes once more, at the end.
  say "what failed"
  grep -nE -A8 '^ *--- FAIL|^panic: |^fatal error: |^runtime: |WARNING: DATA RACE|^# |^goleak: ' "$log" | cut -c1-300 | head -150
  exit 1
fi
archive=${DREAMCORE_TEST_CLUSTER_ARCHIVE:-../shared/cluster/programs-amd64.tar.zst}
[ ! -f "$archive" ] || export DREAMCORE_TEST_CLUSTER_ARCHIVE=$archive
if [ -f "$archive" ] || [ -x "${DREAMCORE_TEST_CLUSTER:-bin/cluster}/hyper" ]; then
  scripts/cluster.sh
fi
say "fuzz, 2 s each"
scripts/fuzz.sh 2s
say "all tests passed"
