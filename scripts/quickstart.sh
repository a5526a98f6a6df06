#!/usr/bin/env bash
# From a fresh clone to a game: installs what is missing, builds, sets up, and
# makes a game in a real sandbox. Without a key the model is a script.
# usage: scripts/quickstart.sh [WISH]      environment: ANTHROPIC_API_KEY, DREAMCORE_STATE, OUT (default ./game)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
wish=${1:-a snake game with ice physics}
out=${OUT:-game}

need_go
need_commands git=git npm=npm mkfs.ext4=e2fsprogs
say "1/3 Building (the first build compiles gVisor: a few minutes)"
scripts/build.sh
say "2/3 Setting up"
as_root bin/dreamcore setup --yes
say "3/3 Making a game"
as_root bin/dreamcore generate "$wish" --output "$out" --force
ls -l "$out"
