# Sourced by the other scripts: finds Go, becomes root where that is needed,
# and installs what is missing with the machine's own package manager.
# shellcheck shell=bash

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '%s\n' "$*" >&2; }

die() { printf 'error: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '→ %s\n' "$2" >&2; exit 1; }

need_go() {
  command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || die "there is no Go on this machine" "install Go 1.26 or later, then run this again"
  go list -m >/dev/null 2>&1 || die "this Go is too old: $(go version)" "install Go 1.26 or later, then run this again"
}

# as_root CMD...: sandboxes, cgroups and packages need root.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "this needs root: $*" "run the script as root, or install sudo"
  sudo --preserve-env=PATH,HOME,GOCACHE,GOMODCACHE,ANTHROPIC_API_KEY,DREAMCORE_STATE "$@"
}

# install_packages PACKAGE ...: with the machine's own package manager.
install_packages() {
  command -v apt-get >/dev/null || die "missing on this machine: $*" "install them, then run this again"
  say "Installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# need_commands command=package ...: installs the packages of missing commands.
need_commands() {
  local pair missing=()
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}
