#!/usr/bin/env bash
# Fuzzes every parser of foreign bytes: each Fuzz function of each package, so
# long (10m, unless said otherwise), as many side by side as there are CPUs.
# What crashes one stays in its package's testdata/fuzz: keep it there.
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

# fuzz_one FILE:FUNCTION
fuzz_one() {
  local package=./${1%/*} name=${1##*:} log
  log=$FUZZ_LOGS/$(tr / _ <<<"${1%/*}").$name
  fuzz() { go test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZ_TIME" -parallel 1 "$package" >"$log" 2>&1; }
  # On a busy machine Go's fuzzer fails of its own deadline at times, without an
  # input that is to blame: then it is run once more.
  if fuzz || { grep -q '^ *context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" && fuzz; }; then
    echo "ok    $package $name  $(grep -o 'execs: [0-9]*' "$log" | tail -1)"
    rm "$log"
  else
    echo "FAIL  $package $name"
  fi
}
export -f fuzz_one

targets=$(git ls-files -co --exclude-standard '*_test.go' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/' | grep -E "Fuzz(${FUZZ:-.*})" | LC_ALL=C sort)
[ -n "$targets" ] || die "no fuzz targets"
say "$(wc -l <<<"$targets") fuzz targets, $FUZZ_TIME each, $(nproc) at once"
xargs -P "$(nproc)" -I{} bash -c 'fuzz_one {}' <<<"$targets"

found=0
for log in "$FUZZ_LOGS"/*; do
  [ -f "$log" ] || continue
  found=1
  say "findings of ${log##*/}"
  tail -60 "$log"
done
[ $found = 0 ] || { say "crashers are kept: git status --short -- '*/testdata/fuzz'"; exit 1; }
say "no findings"
