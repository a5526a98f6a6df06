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
  systemctl is-active --quiet dreamcore.socket || fail "the service has no socket unit"
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
  ./dreamcore generate "another game" --endpoint $at >killed 2>&1 &
  client=$!
  sleep 5
  old=$(boxes)
  kill -9 "$(systemctl show -p MainPID --value "$unit")"
  wait "$client" || { cat killed; fail "the job was not continued"; }
  grep -q "The service was restarted" killed || { cat killed; fail "the job was done, so the kill came too late"; }
  until ./dreamcore gate health --endpoint $at >/dev/null 2>&1; do sleep 1; done
  for b in $old; do
    [ ! -e "$b" ] || fail "$b is still there"
  done
  [ "$(systemctl show -p NRestarts --value "$unit")" = 1 ] || fail "systemd did not start it again"
  ./dreamcore gate sandbox-io --timeout 10m --endpoint $at

  reload
  restart

  step "stop leaves nothing"
  systemctl stop dreamcore.socket "$unit"
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

# reload changes the model while a game is made: its stream goes on, and the next
# game is made by the new model.
reload() {
  step "a reload takes up a changed setting and drops no stream"
  model first
  post 1 first
  until in_project 1 test -e began; do sleep 0.2; done
  model second
  post 2 second
  wait "$stream" || fail "the stream of the second game broke"
  in_project 2 test -e second || { cat stream.2; fail "the second game is not of the changed model"; }
  ends_with done 2
  kill -0 "$(cat client.1)" || { cat stream.1; fail "the reload has dropped a stream"; }
  in_project 1 touch go
  while kill -0 "$(cat client.1)" 2>/dev/null; do sleep 0.2; done
  in_project 1 test -e ended || fail "the first game did not go on"
  ends_with done 1
}

# restart restarts the service while two games are made. One of them ends in time; the
# other is cut, and goes on in the next process. A client polls without pause.
restart() {
  step "a restart refuses no connection and loses no game"
  model first
  post 3 ended
  post 4 cut
  for n in 3 4; do
    until in_project $n test -e began; do sleep 0.2; done
  done
  touch restarting
  (
    while [ -e restarting ]; do
      curl -s -o /dev/null -w '%{exitcode} %{http_code}\n' --max-time 600 $at/health || true
    done >polls
  ) &
  client=$!
  old=$(systemctl show -p MainPID --value "$unit")
  systemctl restart --no-block "$unit"
  until journalctl -u "$unit" --no-pager | grep -q draining; do sleep 0.2; done
  in_project 3 touch go
  ends 3
  ends_with done 3
  while [ -e "/proc/$old" ]; do sleep 0.2; done
  ends 4
  ends_with done 4
  in_project 4 test -e continued || fail "the game that was cut was not continued"
  ./dreamcore gate health --timeout 5m --endpoint $at
  rm restarting
  wait "$client"
  systemctl is-active --quiet "$unit" || fail "the service does not run"
  [ -z "$(grep -v '^0 200$' polls)" ] || fail "requests failed: $(sort polls | uniq -c)"
  echo "$(wc -l <polls) requests were answered, none was refused"
  echo "the game that was cut has $(grep -c '^id: ' stream.4) events, of which $(cat resumed.4) came before the restart"
}

# model makes the service use a script by a reload. The command of its first step
# waits for a file, or makes one; a conversation that was cut has a second part.
model() {
  wait='touch began; while [ ! -e go ]; do sleep 0.2; done; echo end >ended'
  [ "$1" = first ] || wait='touch second'
  echo '{"conversations":[[{"text":"I begin.","tools":[{"name":"Bash","input":{"command":"'"$wait"'","timeout":600000,"description":"work"}}]},{"text":"done"}],
    [{"tools":[{"name":"Bash","input":{"command":"touch continued","description":"finish"}}]},{"text":"done"}]]}' >/etc/dreamcore/"$1.json"
  chmod 644 /etc/dreamcore/"$1.json"
  sed -i "s|^model_script:.*|model_script: /etc/dreamcore/$1.json|" /etc/dreamcore/config.yaml
  grep -q ^timeout: /etc/dreamcore/config.yaml || echo "timeout: 1h # an emulated machine takes minutes" >>/etc/dreamcore/config.yaml
  before=$(reloads)
  systemctl reload "$unit"
  until [ "$(reloads)" -gt "$before" ]; do sleep 0.2; done
  journalctl -u "$unit" --no-pager | grep reloaded | tail -1 | grep -q model_script || fail "the reload did not take up model_script"
}

reloads() { journalctl -u "$unit" --no-pager | grep -c reloaded || true; }

# user returns the id of the N-th user.
user() { printf '00000000-0000-4000-9000-%012d' "$1"; }

project=9f4a1000-0000-4000-8000-000000000001

in_project() {
  dir=/var/lib/dreamcore/volumes/dreamcore-data/users/$(user "$1")/projects/$project
  shift
  # The file systems of users are mounted for the service only.
  nsenter -t "$(systemctl show -p MainPID --value "$unit")" -m sh -c 'cd "$0" 2>/dev/null && "$@"' "$dir" "$@"
}

# api sends a request to the service.
api() { curl -sSN --max-time 900 -H "X-Modal-Secret: $secret" "$@"; }

# post begins a game of the N-th user. Its stream goes to stream.N.
post() {
  secret=$(./dreamcore secret show modal-internal-secret MODAL_INTERNAL_SECRET)
  rm -f "head.$1"
  api -D "head.$1" -o "stream.$1" $at/generate_game -d "{\"user_id\":\"$(user "$1")\",\"project_id\":\"$project\",\"prompt\":\"$2\",\"detach\":true}" &
  stream=$!
  echo $stream >"client.$1"
  until grep -qi '^x-job-id' "head.$1" 2>/dev/null; do
    kill -0 $stream 2>/dev/null || { cat "head.$1" "stream.$1"; fail "the game did not begin"; }
    sleep 0.1
  done
}

# ends follows the game of the N-th user to its end, and comes back with
# Last-Event-ID if its stream is cut.
ends() {
  while kill -0 "$(cat "client.$1")" 2>/dev/null; do sleep 0.2; done
  job=$(tr -d '\r' <"head.$1" | sed -n 's/^[Xx]-[Jj]ob-[Ii]d: //p')
  last_id "$1" >"resumed.$1"
  until grep -Eq '^data: \{"type":"(done|error)"' "stream.$1"; do
    # While the service stops, it cuts the stream again and again.
    api -H "Last-Event-ID: $(last_id "$1")" "$at/jobs/$job/events" >>"stream.$1" 2>/dev/null || sleep 0.2
  done
}

last_id() { sed -n 's/^id: //p' "stream.$1" | tail -1; }

# ends_with checks that the stream of the N-th user has every event once, in order,
# and one last event.
ends_with() {
  sed -n 's/^id: //p' "stream.$2" | cmp -s - <(seq "$(last_id "$2")") || { cat "stream.$2"; fail "events of game $2 are missing, or there twice"; }
  [ "$(grep -Ec '^data: \{"type":"(done|error)"' "stream.$2")" = 1 ] || { cat "stream.$2"; fail "game $2 has not one last event"; }
  grep -q "^data: {\"type\":\"$1\"" "stream.$2" || { tail -5 "stream.$2"; fail "game $2 does not end with $1"; }
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
