#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# What a responder spends on an IKE SA with a child: ikev2d and strongSwan's charon (with kernel-libipsec,
# so that both do ESP in user space), one after the other in rounds, loaded by `esplanade ike-load` from
# another network namespace. Then, for ikev2d: memory of IKE SAs that stay, all of them rekeyed, and a flood
# of first messages from addresses where nobody is, with peers that set up meanwhile.
#
#   benches/ike-load.sh [ROUNDS [COUNT [KEPT [FLOOD]]]]      as root; 3 rounds, 2000 SAs, 10000 kept, 60 s
set -eu
rounds=${1:-3} count=${2:-2000} kept=${3:-10000} flood=${4:-60}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p ikev2d -p cli
bin=$PWD/${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d) a=ikeload-a-$$ b=ikeload-b-$$ pid=
end() { [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; ip netns del $a; ip netns del $b; rm -rf "$work"; }
ip netns add $a; ip netns add $b; trap end EXIT INT TERM
ip -n $a link add wire type veth peer name wire netns $b
for n in $a $b; do ip -n $n link set lo up; ip -n $n link set wire up; done
ip -n $a addr add 10.77.0.1/24 dev wire; ip -n $b addr add 10.77.0.2/24 dev wire
ip -n $a route add local 10.64.0.0/14 dev lo; ip -n $b route add 10.64.0.0/14 via 10.77.0.1
psk=Load-Test-0123456789

cat >"$work/ikev2d.toml" <<END
[daemon]
vici_socket = "$work/vici"
log_level = "error"
tun = { name = "esp0", queues = 1 }
[connections.load]
unique = "never"
proposals = ["aes128gcm16-prfsha256-ecp256"]
local = { auth = "psk", id = "responder.load" }
remote = { auth = "psk" }
[connections.load.children.net]
local_ts = ["10.2.0.0/16"]
remote_ts = ["10.128.0.0/9"]
esp_proposals = ["aes128gcm16"]
[secrets.ike-load]
secret = "$psk"
END
mkdir -p "$work/swanctl"
cat >"$work/swanctl/swanctl.conf" <<END
connections { load {
 version = 2
 unique = never
 proposals = aes128gcm16-prfsha256-ecp256
 local {
  auth = psk
  id = responder.load
 }
 remote {
  auth = psk
 }
 children { net {
  local_ts = 10.2.0.0/16
  remote_ts = 10.128.0.0/9
  esp_proposals = aes128gcm16
 } }
} }
secrets { ike-load {
 secret = "$psk"
} }
END
cat >"$work/strongswan.conf" <<END
charon {
 load = random nonce aes sha1 sha2 hmac kdf openssl gcm kernel-libipsec kernel-netlink socket-default vici
 threads = 24
 plugins {
  vici { socket = unix://$work/vici }
  kernel-libipsec { load = yes }
  kernel-netlink { fwmark = !0x42 }
  socket-default { fwmark = 0x42 }
 }
 syslog { daemon { default = -1 } }
}
charon-systemd { journal { default = -1 } }
END

ours() { ip netns exec $b "$bin/ikev2d" --config "$work/ikev2d.toml" 2>"$work/log" & pid=$!; up; }
theirs() {
    STRONGSWAN_CONF=$work/strongswan.conf ip netns exec $b /usr/sbin/charon-systemd >"$work/log" 2>&1 & pid=$!
    up
    SWANCTL_DIR=$work/swanctl timeout 20 swanctl --load-all --uri "unix://$work/vici" >/dev/null
}
up() { for _ in $(seq 100); do [ -S "$work/vici" ] && sleep 0.3 && return; sleep 0.1; done; cat "$work/log"; exit 1; }
down() { kill "$pid"; wait "$pid" 2>/dev/null || true; pid=; rm -f "$work/vici"; }
load() { ip netns exec $a "$bin/esplanade" ike-load 10.77.0.2 -o json --psk $psk "$@"; }
field() { python3 -c 'import json,sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."): value = value[key]
print("%.1f" % value)' "$1" "$2"; }

for round in $(seq "$rounds"); do
    for who in ours theirs; do
        [ $who = ours ] || [ -x /usr/sbin/charon-systemd ] || continue
        $who
        load --count 200 --watch "$pid" >/dev/null
        load --count "$count" --watch "$pid" >"$work/$who.$round"
        echo "round $round, $who: $(field "$work/$who.$round" responder_cpu_us_per_sa) us of CPU per IKE SA," \
            "$(field "$work/$who.$round" per_second)/s, p99 $(field "$work/$who.$round" latency_ms.p99) ms"
        down
    done
done
python3 - "$work" <<'END'
import glob, json, statistics, sys
cpu = {who: statistics.median(json.load(open(name))["responder_cpu_us_per_sa"] for name in names)
       for who in ("ours", "theirs") if (names := glob.glob(f"{sys.argv[1]}/{who}.*"))}
print("median:", {who: round(value) for who, value in cpu.items()})
if "theirs" in cpu:
    print("ours is %.2f of strongSwan's (bar: 0.35)" % (cpu["ours"] / cpu["theirs"]))
END

ours
load --count "$kept" --from 10.64.0.0/14 --initiators 16 --keep --rekey --watch "$pid" >"$work/kept"
python3 - "$work/kept" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
print("%d up, %d failed: %.0f octets of memory each (bar: 5000); rekeyed %d, children %d, lost %d" % (
    r["up"], r["failed"], r["responder_rss_bytes"]["per_sa"], r["rekeyed"], r["children_rekeyed"], r["lost"]))
END
down

ours
load --flood "$flood" --from 10.64.0.0/14 --port 1500 --nat-port 14500 --watch "$pid" >"$work/flood" &
flooder=$!
sleep 1
load --count "$((flood * 2 - 4))" --rate 2 >"$work/through"
wait $flooder
echo "flood: $(field "$work/flood" per_second)/s for $flood s, memory grew by $(field "$work/flood" responder_growth_bytes)" \
    "octets (bar: 67108864); through it: $(field "$work/through" up) up, $(field "$work/through" failed) failed," \
    "p99 $(field "$work/through" latency_ms.p99) ms (bar: 2000)"
down
