#!/usr/bin/env bash
# Runs the load tests at the size that the service is meant for; scripts/test.sh runs
# them small. Nothing else should run on the machine. It takes about an hour.
# usage: scripts/load.sh [NAME...]   NAME: restart, kill, readers, silent, disk, jobs, hostile, games
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME "$0" "$@"
[ $# -gt 0 ] || set -- restart kill readers silent disk jobs hostile games

need_go
scripts/build.sh bin/dreamcore
export DREAMCORE_TEST_BINARY=$PWD/bin/dreamcore DREAMCORE_TEST_NO_SKIP=1
[ -n "${DREAMCORE_TEST_CLAUDE:-}" ] || DREAMCORE_TEST_CLAUDE=$(agent_program)
export DREAMCORE_TEST_CLAUDE
[ -x "$DREAMCORE_TEST_CLAUDE" ] || die "the agent is missing" "run scripts/test.sh first, or set DREAMCORE_TEST_CLAUDE"
run() { go test -count=1 -v -timeout 60m -run "$1" ./cmd/dreamcore/e2e; }
for name; do
  say "$name"
  case $name in
    restart) DREAMCORE_TEST_RESTART_JOBS=20 run TestARestartRefusesNoConnection ;;
    kill) DREAMCORE_TEST_KILLS=100 DREAMCORE_TEST_STREAMS=20 run TestAKilledServiceLosesNoJob ;;
    readers) DREAMCORE_TEST_READERS=300 DREAMCORE_TEST_GAMES=20 run TestReadersThatDropTheirConnectionMissNothing ;;
    silent) DREAMCORE_TEST_SILENT=600 run TestClientsThatNeverReadTakeNoMemory ;;
    disk) DREAMCORE_TEST_DISK_ROUNDS=20 run TestAFullDiskHarmsNothing ;;
    jobs) DREAMCORE_TEST_MANY_JOBS=1000 run TestManyJobs ;;
    hostile) DREAMCORE_TEST_HOSTILE=all run TestHostileUsers ;;
    games) DREAMCORE_TEST_CORPUS=all go test -count=1 -v -timeout 60m -run 'TestTheCorpus|TestHostilePages' ./pkg/work/acceptance/browser ;;
    *) say "there is no load test $name"; exit 2 ;;
  esac
done
