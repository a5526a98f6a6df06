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
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
    die "apt-get could not install $*" "see what it says above; the packages are named as Debian names them"
}

# need_commands command=package ...: installs the packages of missing commands.
need_commands() {
  local pair missing=()
  for pair in "$@"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# agent_package prints the package of the agent for this machine.
agent_package() {
  case $(uname -m) in
    x86_64) echo @anthropic-ai/claude-code-linux-x64 ;;
    aarch64 | arm64) echo @anthropic-ai/claude-code-linux-arm64 ;;
    *) die "there is no agent for $(uname -m)" ;;
  esac
}

# agent_program prints where test.sh installs the agent: the path of its program.
agent_program() {
  local package
  package=$(agent_package) || return
  echo "$PWD/bin/agent/node_modules/$package/claude"
}

# usable_browser prints the first browser that sandboxes can use, or nothing: all of
# it must be below /usr. Ubuntu's chromium is a script that starts a snap. The list
# is that of pkg/work/acceptance/verdict/browsers.go.
usable_browser() {
  local name
  for name in $(grep -o '"/usr/[^"]*"' pkg/work/acceptance/verdict/browsers.go | tr -d '"'); do
    [ -x "$name" ] || continue
    case $(readlink -f "$name") in /usr/*) ;; *) continue ;; esac
    ! head -c 4096 "$name" | grep -aq -e /snap/ -e 'snap install' || continue
    echo "$name"
    return
  done
}

# need_browser installs Debian's browser for sandboxes unless there is one.
need_browser() {
  [ -z "$(usable_browser)" ] || return 0
  command -v apt-get >/dev/null && (install_packages chromium-headless-shell) || true
  [ -n "$(usable_browser)" ] ||
    die "there is no browser that sandboxes can use, and Debian's package chromium-headless-shell cannot be installed here" \
      "run this on Debian or in a container of it, or install a browser that is complete below /usr, as one of: $(grep -o '"/usr/[^"]*"' pkg/work/acceptance/verdict/browsers.go | tr -d '"' | paste -sd ' ')"
}
