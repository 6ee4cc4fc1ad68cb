#!/bin/bash
# Two Ray nodes in two network namespaces with a cable between them; then a program on the first.
#   unshare -Urnmp --fork --kill-child --mount-proc two_hosts.sh FOLDER PYTHON PROGRAM…
# All namespaces are unnamed: they and whatever runs in them end with this script.
set -euo pipefail
folder=$1 python=$2
shift 2
ray() { "$python" -m ray.scripts.scripts start --num-cpus=1 --disable-usage-stats --object-store-memory=104857600 "$@"; }

unshare --net sleep infinity &
second=$!
until [ "$(readlink /proc/$second/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
there() { nsenter --net --target $second "$@"; }

ip link add left type veth peer name right netns $second
ip link set lo up
ip addr add 10.77.0.1/24 dev left
ip link set left up
there ip link set lo up
there ip addr add 10.77.0.2/24 dev right
there ip link set right up

ray --head --node-ip-address=10.77.0.1 --port=6390 --include-dashboard=false --temp-dir="$folder" >&2
export -f ray
there env python="$python" bash -c 'ray --address=10.77.0.1:6390 --node-ip-address=10.77.0.2' >&2
"$python" "$@"
