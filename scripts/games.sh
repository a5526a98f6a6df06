#!/usr/bin/env bash
# Installs the libraries that the games of testdata/games/cases.yaml use into
# testdata/games/.packages, which git ignores. It does nothing when they are there.
# usage: scripts/games.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
need_commands npm=npm

games=$PWD/testdata/games
mapfile -t packages < <(grep -oE '\{package: [^,]+,' "$games/cases.yaml" | sed 's/{package: //; s/,$//; s/"//g' | LC_ALL=C sort -u)
[ ${#packages[@]} -gt 0 ] || die "testdata/games/cases.yaml names no package"
wanted=$(printf '%s\n' "${packages[@]}")
[ "$(cat "$games/.packages/installed" 2>/dev/null)" != "$wanted" ] || exit 0

say "libraries of the games"
rm -rf "$games/.packages"
mkdir -p "$games/.packages"
npm install --no-audit --no-fund --ignore-scripts --no-save --no-package-lock --loglevel=error --prefix "$games/.packages" "${packages[@]}" >&2
# Last: an interrupted installation starts again.
printf '%s\n' "$wanted" >"$games/.packages/installed"
