#!/usr/bin/env bash
# Measures the figures of pkg/docs/performance.md: what dreamcore-bench compares, which
# writes pkg/docs/bench.json and pkg/docs/bench.svg too, then Go benchmarks, and whole
# commands with the demo model. Other programs that it compares with are those of the
# machine (bubblewrap, crun, runc, containerd); it names those that are missing.
# usage: scripts/bench.sh [RUNS [FLAG-OF-DREAMCORE-BENCH...]]
#        scripts/bench.sh compare [FLAG-OF-DREAMCORE-BENCH...]   only what it compares
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME "$0" "$@"
runs=${1:-20}
[ $# = 0 ] || shift

need_go
scripts/build.sh bin/dreamcore
export DREAMCORE_TEST_BINARY=$PWD/bin/dreamcore
say "machine: $(nproc) cores, kernel $(uname -r), $(go env GOVERSION), load $(cut -d' ' -f1 /proc/loadavg)"
agent=${DREAMCORE_TEST_CLAUDE:-$(agent_program)}
[ -x "$agent" ] || { say "no agent at $agent: games are not measured"; agent=; }
say "in turn with others"
go run ./cmd/dreamcore-bench -binary bin/dreamcore -agent "$agent" "$@"
[ "$runs" != compare ] || exit 0
say "benchmarks"
go test -run '^$' -bench 'Cold|Exec' -benchtime "${runs}x" -count 3 ./pkg/sandbox/runc
go test -run '^$' -bench 'Exec|Clean|Probe' -benchtime "${runs}x" -count 3 ./pkg/sandbox/gvisor
# A sandbox from nothing to the first output, and the bare engine, in turn.
turns=$(mktemp)
for ((i = 0; i < 7; i++)); do
  go test -run '^$' -bench 'Cold|Bare' -benchtime 5x ./pkg/sandbox/gvisor | grep ^Benchmark | tee -a "$turns"
done
awk '{split($1, n, "-"); v[n[1], ++c[n[1]]] = $3}
  function median(k,  i, j, t) {
    for (i = 1; i <= c[k]; i++) for (j = i + 1; j <= c[k]; j++) if (v[k, j] < v[k, i]) {t = v[k, i]; v[k, i] = v[k, j]; v[k, j] = t}
    return v[k, int((c[k] + 1) / 2)] / 1e6
  }
  END {a = median("BenchmarkCold"); b = median("BenchmarkBare"); printf "first output: ours %.0f ms, bare %.0f ms, ratio %.2f (medians)\n", a, b, a / b}' "$turns"
rm -f "$turns"
go test -run '^$' -bench Idle -benchtime 1x ./pkg/sandbox/gvisor
go test -run '^$' -bench . ./pkg/work/workspace ./pkg/store/disk
go test -run '^$' -bench . ./pkg/model/gateway ./pkg/store/journal
go test -run '^$' -bench CommitChanged ./pkg/store/history
go test -run '^$' -bench 'GetFile' -benchtime 500x ./pkg/api/server
go test -run '^$' -bench 'Apply' ./pkg/work/project

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
bin/dreamcore --state "$state" setup --yes ${DREAMCORE_TEST_CLAUDE:+--claude "$DREAMCORE_TEST_CLAUDE"}
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
# whole NAME CMD...: the median wall time of a command, pause seconds apart.
pause=0
whole() {
  local name=$1 i start; shift
  for ((i = 0; i < runs; i++)); do
    start=$(date +%s%N)
    "$@" >/dev/null 2>&1
    echo $((($(date +%s%N) - start) / 1000000))
    sleep "$pause"
  done | median | xargs -I{} printf '%-40s %s ms (median of %s)\n' "$name" {} "$runs"
}
whole "dreamcore --version" bin/dreamcore --version
whole "dreamcore generate, demo" bin/dreamcore --state "$state" generate "a snake game"
bin/dreamcore --state "$state" serve --model-script demo --listen 127.0.0.1:0 2>"$state/log" &
server=$!
trap 'kill $server; wait $server; rm -rf "$state"' EXIT
until url=$(sed -n 's/.*Serving on \(http:[^ ]*\).*/\1/p' "$state/log") && [ -n "$url" ]; do sleep 0.1; done
secret=$(bin/dreamcore --state "$state" secret show modal-internal-secret)
sleep 2 # for the spare sandbox
pause=1 whole "POST /test_sandbox_io, once a second" curl -sf -X POST -H "X-Modal-Secret: $secret" "$url/test_sandbox_io"
whole "POST /test_sandbox_io, without a pause" curl -sf -X POST -H "X-Modal-Secret: $secret" "$url/test_sandbox_io"

user='{"user_id":"a11ce000-0000-4000-8000-000000000001"}'
curl -sf -X POST -H "X-Modal-Secret: $secret" -d "$user" "$url/prewarm_sandbox"
whole "POST /prewarm_sandbox, already warm" curl -sf -X POST -H "X-Modal-Secret: $secret" -d "$user" "$url/prewarm_sandbox"
