#!/usr/bin/env bash
# A Kubernetes cluster of a control plane and two nodes on this machine. Each of the three
# is a network, mount and process namespace: ending its first process ends all of it.
# usage: nodes.sh up RUN PROGRAMS IMAGE.tar ... | down RUN | kubectl RUN ARGS ... | in RUN COMMAND ...
# RUN is a directory with a short path, which holds everything but the control groups
# dreamcore-node1 and dreamcore-node2. Pods reach the API server at its service address.
# There is no DNS, no proxy for other services, and no way to the internet.
set -euo pipefail
self=$(readlink -f "$0")
command=$1 run=$(realpath -ms -- "$2") # as in the command lines of its processes
shift 2
api=10.96.0.1 # the address of the service "kubernetes", and of the API server itself

# ours PID: is it a process of this cluster? The number may be another one's by now.
ours() { grep -qszxF -- "$run" "/proc/$1/cmdline"; }
alive() { [ -s "$run/$1/pid" ] && ours "$(cat "$run/$1/pid")"; }
stop() { if alive "$1"; then kill -9 "$(cat "$run/$1/pid")"; fi; }
enter() { local name=$1; shift; nsenter -t "$(cat "$run/$name/pid")" -n "$@"; } # in its network
kube() { enter control env KUBECONFIG="$run/admin.conf" kubectl "$@"; }

# wait_for SECONDS WHAT COMMAND ...
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "error: waited in vain for $what; the logs are in $run" >&2; return 1; }
    sleep 0.2
  done
}

config() { # config NAME TOKEN
  cat >"$run/$1.conf" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$api", certificate-authority: $run/ca.crt}}]
users: [{name: u, user: {token: $2}}]
contexts: [{name: c, context: {cluster: c, user: u, namespace: dreamcore}}]
current-context: c
EOF
}

keys() ( # a shell of its own, for its umask
  umask 077
  openssl genrsa -out "$run/sa.key" 2048 2>/dev/null
  openssl rsa -in "$run/sa.key" -pubout -out "$run/sa.pub" 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dreamcore-test -keyout "$run/ca.key" -out "$run/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout "$run/api.key" -out "$run/api.csr" 2>/dev/null
  openssl x509 -req -in "$run/api.csr" -CA "$run/ca.crt" -CAkey "$run/ca.key" -CAcreateserial -days 2 -out "$run/api.crt" \
    -extfile <(echo "subjectAltName=IP:$api,IP:10.77.0.1,DNS:kubernetes.default.svc") 2>/dev/null
  for name in admin node1 node2; do
    token=$(openssl rand -hex 16)
    case $name in
      admin) echo "$token,admin,admin,system:masters" ;;
      *) echo "$token,system:node:$name,$name,system:nodes" ;;
    esac >>"$run/tokens.csv"
    config "$name" "$token"
  done
)

# serve_api runs the API server, except while there is a file "stopped".
serve_api() {
  local pid
  while :; do
    if [ ! -e stopped ]; then
      "$hyper" kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 443 --bind-address 0.0.0.0 --advertise-address 10.77.0.1 \
        --service-cluster-ip-range 10.96.0.0/16 --tls-cert-file "$run/api.crt" --tls-private-key-file "$run/api.key" --allow-privileged \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$run/sa.pub" --service-account-signing-key-file "$run/sa.key" \
        --authorization-mode Node,RBAC --token-auth-file "$run/tokens.csv" --kubelet-preferred-address-types InternalIP >>api.log 2>&1 &
      pid=$!
      while [ ! -e stopped ] && kill -0 $pid 2>/dev/null; do sleep 0.2; done
      kill -9 $pid 2>/dev/null || true
    fi
    sleep 0.2
  done
}

# control runs as the first process of the control plane.
control() {
  local dir=$run/control hyper=$run/programs/hyper name
  cd "$dir"
  ip link set lo up
  ip link add br0 type bridge
  ip addr add 10.77.0.1/24 dev br0
  ip addr add $api/32 dev br0
  ip link set br0 up
  ip route add default dev br0
  "$hyper" etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380 --unsafe-no-fsync >etcd.log 2>&1 &
  serve_api &
  wait_for 120 "the API server" env KUBECONFIG="$run/admin.conf" kubectl get --raw /readyz
  "$hyper" kube-controller-manager --kubeconfig "$run/admin.conf" --root-ca-file "$run/ca.crt" --service-account-private-key-file "$run/sa.key" \
    --leader-elect=false --node-monitor-grace-period=16s --node-monitor-period=1s >manager.log 2>&1 &
  "$hyper" kube-scheduler --kubeconfig "$run/admin.conf" --leader-elect=false >scheduler.log 2>&1 &
  touch up
  wait # and reap
}

# node runs as the first process of a node.
node() {
  local name=$1 number=${1#node} dir=$run/$1 d other
  shift
  cd "$dir"
  ip link set lo up
  wait_for 20 "the network of $name" ip link show eth0
  ip addr add "10.77.0.$((number + 1))/24" dev eth0
  ip link set eth0 up
  ip route add default via 10.77.0.1
  other=$((3 - number))
  ip route add "10.244.$other.0/24" via "10.77.0.$((other + 1))"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  mount --make-rshared / # volumes of pods are mounted with propagation
  for d in /var/lib/kubelet /var/lib/cni /run/containerd /run/netns; do # its own
    mkdir -p "$d" "$dir/own$d"
    mount --bind "$dir/own$d" "$d"
  done
  mount --make-shared /run/netns
  groups
  mkdir -p cni
  cat >cni/10-bridge.conflist <<EOF
{"cniVersion":"1.0.0","name":"bridge","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
 "ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.$number.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
EOF
  cat >containerd.toml <<EOF
version = 3
root = "$dir/containerd"
state = "$dir/state"
[grpc]
  address = "$dir/c.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.example.com/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    options = {BinaryName = "$run/programs/runc"}
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["$run/programs"]
    conf_dir = "$dir/cni"
EOF
  cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$dir/c.sock
cgroupDriver: cgroupfs
cgroupRoot: /dreamcore-$name
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
podLogsDir: $dir/pods
volumePluginDir: $dir/plugins
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}} # this network has nobody else
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
resolvConf: /dev/null
nodeLeaseDurationSeconds: 4
nodeStatusUpdateFrequency: 2s
EOF
  PATH=$run/programs:$PATH containerd -c containerd.toml >containerd.log 2>&1 &
  wait_for 60 "containerd of $name" "$run/programs/ctr" -a "$dir/c.sock" version
  for d in "$@"; do "$run/programs/ctr" -a "$dir/c.sock" -n k8s.io images import "$d" >/dev/null; done
  # The kubelet sets some sysctls of the machine. In a mount namespace of its own it sees
  # the values that it wants, and changes nothing.
  PATH=$run/programs:$PATH unshare -m --propagation unchanged bash -c '
    mount --make-rprivate /proc
    for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
      f=$PWD/sysctl-$(basename "${kv%=*}"); echo "${kv#*=}" >"$f"; mount --bind "$f" "/proc/sys/${kv%=*}"
    done
    exec "$@"' - "$run/programs/hyper" kubelet --config kubelet.yaml --kubeconfig "$run/$name.conf" --cert-dir pki \
    --hostname-override "$name" --node-ip "10.77.0.$((number + 1))" >kubelet.log 2>&1 &
  wait # and reap
}

# groups makes the control groups of a node.
groups() {
  local c
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then # version 2; not tried
    mkdir -p "/sys/fs/cgroup/dreamcore-$name"
    for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
      echo "+$c" | tee /sys/fs/cgroup/cgroup.subtree_control "/sys/fs/cgroup/dreamcore-$name/cgroup.subtree_control" >/dev/null 2>&1 || true
    done
    return
  fi
  for c in /sys/fs/cgroup/*/; do mkdir -p "$c/dreamcore-$name" 2>/dev/null || true; done
  if [ -e "/sys/fs/cgroup/cpuset/dreamcore-$name" ]; then
    cat /sys/fs/cgroup/cpuset/cpuset.cpus >"/sys/fs/cgroup/cpuset/dreamcore-$name/cpuset.cpus"
    cat /sys/fs/cgroup/cpuset/cpuset.mems >"/sys/fs/cgroup/cpuset/dreamcore-$name/cpuset.mems"
  fi
}

# start NAME FUNCTION ARGS ...: starts its namespaces, and writes down their first process.
start() {
  local name=$1
  mkdir -p "$run/$name"
  setsid unshare -m -n -p -i --fork --mount-proc --propagation private bash "$self" _run "$run" "$@" >"$run/$name/log" 2>&1 </dev/null &
  echo $! >"$run/$name/parent"
  wait_for 10 "the namespaces of $name" first "$name"
}

first() { pgrep -P "$(cat "$run/$1/parent")" >"$run/$1/pid"; }

# link NAME: connects a node with the control plane.
link() {
  local number=${1#node}
  enter control ip link del "veth$number" 2>/dev/null || true
  enter control ip link add "veth$number" type veth peer name eth0 netns "$(cat "$run/$1/pid")"
  enter control ip link set "veth$number" master br0 up
  enter control ip route replace "10.244.$number.0/24" via "10.77.0.$((number + 1))"
}

up() {
  local programs=$1 name
  shift
  for name in control node1 node2; do ! alive $name || { echo "error: a cluster runs in $run" >&2; exit 1; }; done
  mkdir -p "$run"
  chmod 711 "$run"
  ln -sfn "$programs" "$run/programs"
  keys
  # Each kubelet and containerd uses some; the machine's default of 128 does not suffice.
  if [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -lt 512 ]; then
    cp /proc/sys/fs/inotify/max_user_instances "$run/inotify"
    echo 1024 >/proc/sys/fs/inotify/max_user_instances
  fi
  start control control
  for name in node1 node2; do
    start $name node $name "$@"
    wait_for 10 "the network of the control plane" enter control ip link show br0
    link $name
  done
  wait_for 120 "the control plane" test -e "$run/control/up"
  for name in node1 node2; do wait_for 180 "$name" ready $name; done
}

ready() { kube get node "$1" --no-headers 2>/dev/null | grep -q ' Ready'; }

down() {
  local name left
  for name in node1 node2 control; do
    stop $name
  done
  for name in node1 node2 control; do
    [ -s "$run/$name/parent" ] && wait_for 20 "the end of $name" ended "$(cat "$run/$name/parent")" || true
  done
  for name in node1 node2; do
    find /sys/fs/cgroup -maxdepth 2 -type d -name "dreamcore-$name" 2>/dev/null | while read -r left; do
      wait_for 10 "the end of the control group $left" drop "$left" || true
    done
  done
  [ ! -s "$run/inotify" ] || cat "$run/inotify" >/proc/sys/fs/inotify/max_user_instances
  rmdir /var/lib/kubelet /var/lib/cni /run/containerd /run/netns 2>/dev/null || true
  rm -rf --one-file-system "$run"
  left=$(pgrep -af "$run/" | grep -v "nodes.sh down" || true; grep " $run" /proc/mounts || true; find /sys/fs/cgroup -maxdepth 2 -name 'dreamcore-node*')
  [ -z "$left" ] || { printf 'error: left behind:\n%s\n' "$left" >&2; exit 1; }
}

ended() { ! ours "$1"; }
drop() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d "$1" ]; }

case $command in
  _run) shift; "$@" ;;
  up) up "$@" ;;
  down) down ;;
  kubectl) kube "$@" ;;
  in) enter control "$@" ;;
  again) # again NAME IMAGE ...: a node that was ended comes back
    name=$1
    shift
    start "$name" node "$name" "$@"
    link "$name"
    wait_for 180 "$name" ready "$name"
    ;;
  *) echo "error: unknown command $command" >&2; exit 2 ;;
esac
