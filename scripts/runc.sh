#!/usr/bin/env bash
# Builds runc, static, for the program to embed: runc.gz, and runc.sum with its
# digest and version, in pkg/sandbox/runc/embedded/ARCH.
# Does nothing when the version, the flags and the tools are those of the last
# time. Where runc cannot be built it says so, removes what is there, and goes
# on: the program then has gVisor only. REQUIRE_RUNC=1 makes that an error.
# usage: scripts/runc.sh [ARCH]     ARCH: amd64 or arm64; anything but the machine's own cannot be built
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
arch=${1:-$(go env GOHOSTARCH)}
module=pkg/sandbox/runc/module
out=pkg/sandbox/runc/embedded/$arch
tags="seccomp netgo osusergo"
ldflags="-s -w -buildid= -extldflags=-static"

# without REASON: no runc in this program.
without() {
  [ "${REQUIRE_RUNC:-0}" != 1 ] || die "runc cannot be built: $1" "install gcc, libc6-dev and libseccomp-dev, then run scripts/build.sh again"
  rm -f "$out/runc.gz" "$out/runc.sum" "$out/.stamp"
  say "runc is left out ($1): this program has gVisor only"
  exit 0
}

# links: whether C links statically with libseccomp.
links() {
  local dir ok=0
  dir=$(mktemp -d)
  printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n' >"$dir/a.c"
  "${CC:-gcc}" -static -o "$dir/a" "$dir/a.c" -lseccomp >/dev/null 2>&1 || ok=1
  rm -rf "$dir"
  return $ok
}

[ "$arch" = "$(go env GOHOSTARCH)" ] || without "a machine of another kind than $arch builds it"
if ! links; then
  command -v apt-get >/dev/null || without "no gcc with a static libseccomp"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || without "no gcc with a static libseccomp, and no right to install them"
  install_packages gcc libc6-dev libseccomp-dev pkg-config || without "its C libraries cannot be installed"
  links || without "no gcc with a static libseccomp"
fi
command -v pkg-config >/dev/null || install_packages pkg-config || without "no pkg-config"

stamp=$(cat "$module/go.mod" "$module/go.sum" scripts/runc.sh; go version; "${CC:-gcc}" --version; pkg-config --modversion libseccomp)
stamp=$(printf '%s' "$stamp" | sha256sum | cut -d' ' -f1)
if [ -s "$out/runc.gz" ] && [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi

say "building runc"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# No -buildvcs: the commit of this repository says nothing about runc.
(cd "$module" && CGO_ENABLED=1 go build -trimpath -buildvcs=false -tags "$tags" -ldflags "$ldflags" -o "$dir/runc" github.com/opencontainers/runc)
version=$("$dir/runc" --version | sed -n 's/^runc version //p')
[ -n "$version" ] || die "the runc that was built does not run"
# The stamp goes first and comes last: a build that is cut off is done again.
rm -f "$out/.stamp"
gzip -9 -n <"$dir/runc" >"$out/runc.gz"
printf '%s  runc %s\n' "$(sha256sum <"$dir/runc" | cut -d' ' -f1)" "$version" >"$out/runc.sum"
printf '%s\n' "$stamp" >"$out/.stamp"
say "built runc $version, $(du -h "$out/runc.gz" | cut -f1) compressed"
