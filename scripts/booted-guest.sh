#!/bin/bash
# Runs inside the machine of scripts/booted.sh, as root: what an operator does
# on a new host, and what must hold afterwards.
# usage: booted-guest.sh gvisor|runc [DEEP GATE ...]
engine=$1
shift
cd /root || exit 1
export NO_COLOR=1 HOME=/root
unit=dreamcore.service
group=/sys/fs/cgroup/system.slice/$unit
at=http://127.0.0.1:8080

main() {
  set -eu
  step "$(uname -sr), $(systemctl --version | head -1), $(stat -fc %T /sys/fs/cgroup), $(nproc) processors"
  step "doctor, before anything is there"
  ./dreamcore doctor --runtime "$engine" && fail "doctor finds secrets on a new machine"
  step "deploy"
  ./dreamcore deploy --yes --runtime "$engine" --model-script demo --no-start
  systemctl start "$unit"
  until ./dreamcore gate health --endpoint $at >/dev/null 2>&1; do
    systemctl is-active --quiet "$unit" || { journalctl -u "$unit" --no-pager | tail -30; fail "the service does not run"; }
    sleep 1
  done
  step "the gates"
  export ALLOW_NON_GVISOR=$([ "$engine" = gvisor ] || echo 1)
  ./dreamcore gate health sandbox-io isolation volume auth "$@" --timeout 10m --endpoint $at
  streams
  step "deploy once more changes nothing"
  pid=$(systemctl show -p MainPID --value "$unit")
  ./dreamcore deploy --yes --no-start
  [ "$pid" = "$(systemctl show -p MainPID --value "$unit")" ] || fail "the service was restarted"

  step "a game"
  ./dreamcore generate "a snake game" --endpoint $at
  step "sandboxes are in the group of the service, and in no other place"
  ./dreamcore ps
  [ -n "$(boxes)" ] || fail "no sandbox in $group"
  [ "$(find /sys/fs/cgroup -type d -name 's-*' | grep -vc "^$group/")" = 0 ] || fail "a sandbox lies elsewhere"
  systemctl status "$unit" --no-pager | head -8

  step "the service is killed in the middle of a job"
  ./dreamcore generate "another game" --endpoint $at >/dev/null 2>&1 &
  client=$!
  sleep 5
  old=$(boxes)
  kill -9 "$(systemctl show -p MainPID --value "$unit")"
  wait "$client" && fail "the job was done, so the kill came too late"
  until ./dreamcore gate health --endpoint $at >/dev/null 2>&1; do sleep 1; done
  for b in $old; do
    [ ! -e "$b" ] || fail "$b is still there"
  done
  [ "$(systemctl show -p NRestarts --value "$unit")" = 1 ] || fail "systemd did not start it again"
  ./dreamcore gate sandbox-io --timeout 10m --endpoint $at

  step "stop leaves nothing"
  systemctl stop "$unit"
  processes
  [ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup -a)"
  [ ! -e "$group" ] || fail "$group is left"
  [ -z "$(grep /var/lib/dreamcore /proc/mounts)" ] || fail "mounts are left: $(grep /var/lib/dreamcore /proc/mounts)"

  step "what a killed command left in a group of its own, another command ends"
  systemd-run --scope --quiet --unit=lent -p Delegate=yes ./dreamcore generate "a game" --runtime "$engine" --model-script demo >/dev/null 2>&1 &
  client=$! # systemd-run becomes the command
  group=/sys/fs/cgroup/system.slice/lent.scope
  until [ -n "$(boxes)" ]; do sleep 1; done
  kill -9 $client
  wait $client && fail "the job was done, so the kill came too late"
  [ -n "$(boxes)" ] || echo "nothing was left: the sandbox has ended by itself"
  ./dreamcore generate "a game" --runtime "$engine" --model-script demo
  [ -z "$(boxes)" ] || fail "$(boxes) is left"
  processes
  echo "all is well"
}

# streams tries the gate that has a clock, which an emulated machine may miss.
streams() {
  for _ in 1 2 3; do
    ./dreamcore gate streaming --timeout 10m --endpoint $at && return
  done
  [ "$(systemd-detect-virt)" = qemu ] || fail "the service does not stream in time"
  echo "not counted: this machine is emulated"
}

step() { echo "== $* ($(cut -d. -f1 /proc/uptime) s)"; }
fail() { echo "FAILED: $*"; exit 1; }
processes() {
  left=$(ps -eo pid,args | grep -E '^ *[0-9]+ [^ ]*(runsc-|gvisor_|\[gvisor|dreamcore)' || true)
  [ -z "$left" ] || fail "processes are left: $left"
}
boxes() { find "$group" -type d -name 's-*' 2>/dev/null || true; }

(main "$@") 2>&1 | sed -u 's/^/booted: /'
systemctl poweroff --no-block
