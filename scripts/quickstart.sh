#!/usr/bin/env bash
# From a fresh clone to a game: installs what is missing, builds, sets up, makes a
# game in a real sandbox, and installs the program. Without a key a script plays the
# model. The clone stays clean.
# usage: scripts/quickstart.sh [PROMPT]    environment: ANTHROPIC_API_KEY, DREAMCORE_STATE,
#        OUT (directory of the game, default bin/game), PREFIX (default /usr/local; "" installs nothing)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
prompt=${1:-a snake game with ice physics}
out=${OUT:-bin/game}

need_go
need_commands git=git npm=npm mkfs.ext4=e2fsprogs
say "1/4 Building (the first build compiles gVisor: a few minutes)"
scripts/build.sh
say "2/4 Setting up"
as_root bin/dreamcore setup --yes
say "3/4 Making a game"
as_root bin/dreamcore generate "$prompt" --output "$out" --force
ls -l "$out"
say "4/4 Installing"
prefix=${PREFIX-/usr/local}
if [ -n "$prefix" ]; then
  as_root install -D -m 0755 bin/dreamcore "$prefix/bin/dreamcore"
  say "installed $prefix/bin/dreamcore; next: sudo dreamcore serve, or dreamcore help overview"
fi
