#!/usr/bin/env bash
# Tries the product on a machine that it makes: a virtual one with Debian, its
# kernel, a booted systemd and cgroup v2. In it runs what scripts/booted-guest.sh
# has: doctor, deploy, the gates, a game, a crash of the service, a reload, a restart
# with games that run, deploy again.
# Without /dev/kvm the machine is emulated, and a run takes half an hour or more.
# usage: scripts/booted.sh [gvisor|runc] [DEEP GATE ...]   environment: SUITE (default bookworm), CACHE,
# KVM=no (emulate, although there is /dev/kvm)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/needs.sh
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME,SUITE,CACHE,KVM "$0" "$@"
engine=${1:-gvisor}
[ $# = 0 ] || shift
suite=${SUITE:-bookworm}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamcore-booted}/$suite
[ "$(uname -m)" = x86_64 ] || die "this is for x86_64 only, not for $(uname -m)"

need_go
need_commands mmdebstrap=mmdebstrap qemu-system-x86_64=qemu-system-x86 mkfs.ext4=e2fsprogs npm=npm
REQUIRE_RUNC=1 scripts/build.sh bin/dreamcore
claude=$(PATH=$PWD/bin/agent/node_modules/.bin:$PATH command -v claude) || claude=$(echo bin/agent/node_modules/@anthropic-ai/*/claude)
[ -x "$claude" ] || die "there is no agent" "run scripts/test.sh once, or: npm install -g @anthropic-ai/claude-code"

if [ ! -x "$cache/root/usr/bin/curl" ] || [ ! -e "$cache/made" ]; then
  say "Making Debian $suite (minutes)"
  rm -rf "$cache/root"
  mkdir -p "$cache"
  mmdebstrap --quiet --variant=apt --include=systemd,systemd-sysv,dbus,udev,linux-image-cloud-amd64,initramfs-tools,kmod,procps,iproute2,git,e2fsprogs,ca-certificates,curl \
    "$suite" "$cache/root"
  touch "$cache/made"
fi

work=$(mktemp -d)
machine=
trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null || true; wait; ! mountpoint -q "$work/over" || umount "$work/over"; rm -rf "$work"' EXIT
# What is added lies over the cached root, which stays as it is.
mkdir "$work/over" "$work/upper" "$work/temp"
mount -t overlay -o "lowerdir=$cache/root,upperdir=$work/upper,workdir=$work/temp" dreamcore-booted "$work/over"
root=$work/over
install -m 755 bin/dreamcore scripts/booted-guest.sh "$root/root/"
install -m 755 "$claude" "$root/usr/local/bin/claude"
echo booted >"$root/etc/hostname"
echo "127.0.0.1 localhost booted" >"$root/etc/hosts"
echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
cat >"$root/etc/systemd/system/booted.service" <<EOF
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/booted-guest.sh $engine $*
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
EOF
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../booted.service "$root/etc/systemd/system/multi-user.target.wants/booted.service"
rm -f "$root/etc/systemd/system/getty.target.wants/"*
cp "$root"/boot/vmlinuz-* "$work/kernel"
cp "$root"/boot/initrd.img-* "$work/initrd"
truncate -s 12G "$work/disk"
mkfs.ext4 -q -d "$root" "$work/disk"
umount "$root"

speed=(-accel "tcg,thread=multi" -cpu max)
[ ! -w /dev/kvm ] || [ "${KVM:-yes}" = no ] || speed=(-accel kvm -cpu host)
say "Booting: ${speed[1]}"
qemu-system-x86_64 "${speed[@]}" -smp 2 -m 6G -nographic -no-reboot -nic none -kernel "$work/kernel" -initrd "$work/initrd" \
  -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=false systemd.mask=serial-getty@ttyS0.service" \
  -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" </dev/null >"$work/console" 2>&1 &
machine=$!
tail -c +1 -f --pid="$machine" "$work/console" | stdbuf -oL tr -d '\r' | grep --line-buffered -a '^booted: ' | sed -u 's/^booted: //' || true
wait "$machine" || true
machine=
grep -qa '^booted: all is well' "$work/console" || { tail -c 3000 "$work/console" >&2; die "it did not get through, see above"; }
