#!/bin/sh
# What every machine of a cluster does, whoever made the machine: sh cluster/node.sh setup | head [FLAGS] | worker [FLAGS] | stop
#
#   setup   ~/venv with Ray at the one version of all machines, the build of torch that fits the machine, the project
#   head    Ray's head at port 6379 ($RAY_PORT), the dashboard on loopback; FLAGS go to `ray start`
#   worker  joins the head at $RAY_HEAD_IP
#   stop    ends the Ray of this cluster on this machine, and no other
#
# `ray stop` would end every Ray of the user, and others' experiments with it. Ray gives a starting raylet 30 s, which a
# busy machine does not always meet: three tries.
set -eu

RAY_VERSION=2.60.0 # the same on all machines, or they refuse each other; tests compare it with the other files here
PORT=${RAY_PORT:-6379}
BIN=${VENV:-$HOME/venv}/bin
PROJECT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

setup() {
    test -x "$BIN/python" || python3 -m venv "$(dirname "$BIN")"
    "$BIN/pip" install --quiet --upgrade pip uv
    # auto: the CUDA build of torch that the driver takes, or the CPU build where there is no GPU
    "$BIN/uv" pip install --quiet --compile-bytecode --python "$BIN/python" --torch-backend=auto \
        "ray[default]==$RAY_VERSION" boto3 gcsfs -e "$PROJECT"
}

# Processes of this user whose command line matches all of the words given.
ours() {
    for pid in $(pgrep -u "$(id -u)" -f -- "$1" || true); do
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "$2" && echo "$pid"
    done
    return 0
}

# End what an earlier start of this cluster left on this machine; a raylet without its head ends by itself.
stop() {
    found=$(ours "gcs_server.*--gcs_server_port=$PORT" "gcs_server"; ours "raylet.*--gcs-address=${RAY_HEAD_IP:-[0-9.]*}:$PORT" "raylet")
    for pid in $found; do kill "$pid" 2>/dev/null || true; done
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        alive=
        for pid in $found; do kill -0 "$pid" 2>/dev/null && alive="$alive $pid"; done
        test -z "$alive" && return 0
        sleep 1
    done
    for pid in $alive; do kill -9 "$pid" 2>/dev/null || true; done
}

# The newer autoscaler counts the head of own machines as one of their workers, and would leave the last one unused.
case ${RAY_CLOUD_INSTANCE_ID:-} in
*[!0-9.]* | "") ;;
*.*.*.*) export RAY_enable_autoscaler_v2=0 ;;
esac

# Ray finds its address by asking for the way to the internet, and takes 127.0.0.1 where there is none. Own machines
# (provider local) are named by the address at which the others reach them.
address() {
    case ${RAY_CLOUD_INSTANCE_ID:-} in
    *[!0-9.]* | "") ;;
    *.*.*.*) echo "--node-ip-address=$RAY_CLOUD_INSTANCE_ID" ;;
    esac
}

start() {
    for try in 1 2 3; do
        stop
        # the token lets only machines that have it talk to the cluster
        RAY_AUTH_MODE=token "$BIN/ray" start --disable-usage-stats $(address) "$@" && return 0
        echo "try $try of 3 failed" >&2
        sleep 5
    done
    return 1
}

case ${1:-} in
setup) setup ;;
head) shift && start --head --port="$PORT" --dashboard-host=127.0.0.1 "$@" ;;
worker) shift && start --address="$RAY_HEAD_IP:$PORT" "$@" ;;
stop) stop ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
