#!/usr/bin/env bash
# Measures what the README quotes: Go benchmarks, and whole commands with the
# demo model. usage: scripts/bench.sh [RUNS]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME "$0" "$@"
runs=${1:-20}

need_go
scripts/build.sh bin/dreamcore
export DREAMCORE_TEST_BINARY=$PWD/bin/dreamcore
say "machine: $(nproc) cores, kernel $(uname -r), $(go env GOVERSION)"
say "benchmarks"
go test -run '^$' -bench 'Cold|Exec' -benchtime "${runs}x" -count 3 ./pkg/sandbox/gvisor ./pkg/sandbox/runc
go test -run '^$' -bench . ./pkg/gateway ./pkg/journal
go test -run '^$' -bench CommitChanged ./pkg/history

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
bin/dreamcore --state "$state" setup --yes ${DREAMCORE_TEST_CLAUDE:+--claude "$DREAMCORE_TEST_CLAUDE"}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
# whole NAME CMD...: the median wall time of a command.
whole() {
  local name=$1 i start; shift
  for ((i = 0; i < runs; i++)); do
    start=$(date +%s%N)
    "$@" >/dev/null 2>&1
    echo $((($(date +%s%N) - start) / 1000000))
  done | median | xargs -I{} printf '%-40s %s ms (median of %s)\n' "$name" {} "$runs"
}
whole "dreamcore --version" bin/dreamcore --version
whole "dreamcore generate, demo" bin/dreamcore --state "$state" generate "a snake game"
bin/dreamcore --state "$state" serve --model-script demo --listen 127.0.0.1:0 2>"$state/log" &
server=$!
trap 'kill $server; wait $server; rm -rf "$state"' EXIT
until url=$(sed -n 's/.*Serving on \(http:[^ ]*\).*/\1/p' "$state/log") && [ -n "$url" ]; do sleep 0.1; done
secret=$(bin/dreamcore --state "$state" secret show modal-internal-secret)
whole "POST /test_sandbox_io, fresh sandbox" curl -sf -X POST -H "X-Modal-Secret: $secret" "$url/test_sandbox_io"
