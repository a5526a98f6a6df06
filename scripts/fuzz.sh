#!/usr/bin/env bash
# Fuzzes every parser of foreign bytes: each Fuzz function of each package, so
# long (10m, unless said otherwise), as many side by side as there are CPUs.
# What crashes one stays in its package's testdata/fuzz: keep it there. Making an
# interesting input smaller is cut short: Go takes a minute for each by default,
# in which nothing is fuzzed, and a run of seconds would be over.
# usage: scripts/fuzz.sh [DURATION]     for a few only: FUZZ='Meter|PeekBody' scripts/fuzz.sh 1m
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_go
export FUZZ_TIME=${1:-10m}
[[ $FUZZ_TIME =~ ^([0-9]+(ms|s|m|h|x))+$ ]] || die "no duration: $FUZZ_TIME" "write it with its unit, like 60s or 10m"

FUZZ_LOGS=$(mktemp -d)
export FUZZ_LOGS
trap 'rm -rf "$FUZZ_LOGS"' EXIT

# build_one DIRECTORY: the package's tests, once for all of its targets.
build_one() {
  go test -c -fuzz . -o "$FUZZ_LOGS/$(tr / _ <<<"$1").test" "./$1" >/dev/null || echo "FAIL  ./$1 does not build"
}
# fuzz_one FILE:FUNCTION
fuzz_one() {
  local dir=${1%/*} name=${1##*:} base log
  base=$FUZZ_LOGS/$(tr / _ <<<"$dir")
  log=$base.$name.log
  fuzz() {
    (cd "$dir" && "$base.test" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$FUZZ_TIME" -test.parallel 1 -test.fuzzminimizetime 20x \
      -test.fuzzcachedir "$FUZZ_CACHE/$dir") >"$log" 2>&1
  }
  # On a busy machine Go's fuzzer fails of its own deadline at times, without an
  # input that is to blame: then it is run once more.
  if fuzz || { grep -q '^ *context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" && fuzz; }; then
    echo "ok    ./$dir $name  $(grep -o 'execs: [0-9]*' "$log" | tail -1)"
    rm "$log"
  else
    echo "FAIL  ./$dir $name"
  fi
}
export -f build_one fuzz_one
FUZZ_CACHE=$(go env GOCACHE)/fuzz/$(go list -m) # where go test -fuzz keeps it
export FUZZ_CACHE

targets=$(git ls-files -co --exclude-standard '*_test.go' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/' | grep -E "Fuzz(${FUZZ:-.*})" | LC_ALL=C sort) || true
[ -n "$targets" ] || die "no fuzz targets"
say "$(wc -l <<<"$targets") fuzz targets, $FUZZ_TIME each, $(nproc) at once"
sed 's|/[^/]*$||' <<<"$targets" | sort -u | xargs -P 2 -I{} bash -c 'build_one {}'
xargs -P "$(nproc)" -I{} bash -c 'fuzz_one {}' <<<"$targets"

found=0
for log in "$FUZZ_LOGS"/*.log; do
  [ -f "$log" ] || continue
  found=1
  say "findings of ${log##*/}"
  tail -60 "$log"
done
[ $found = 0 ] || { say "crashers are kept: git status --short -- '*/testdata/fuzz'"; exit 1; }
say "no findings"
