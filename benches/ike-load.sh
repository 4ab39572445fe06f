#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# What a responder spends on an IKE SA with a child: ikev2d and strongSwan's charon (with kernel-libipsec,
# so that both do ESP in user space), one after the other in rounds, loaded by `esplanade ike-load` from
# another network namespace: with a preshared key, with ECDSA certificates, and with ML-KEM-768 added
# (strongSwan's only where ESPLANADE_STRONGSWAN_ROOT names the folder of a system with one that has it, such as
# target/peers/strongswan-forky, which `cargo xtask peers` makes). Beside each, what ikev2d spends on one that is
# resumed by a ticket instead (RFC 5723).
# Then, for ikev2d: memory of IKE SAs that stay, all of them rekeyed, and a flood of first messages from
# addresses where nobody is, with peers that set up meanwhile.
#
#   benches/ike-load.sh [ROUNDS [COUNT [KEPT [FLOOD]]]]      as root; 3 rounds, 2000 SAs, 10000 kept, 60 s
#   PARTS="psk certificates ml-kem kept flood" chooses among the parts
set -eu
rounds=${1:-3} count=${2:-2000} kept=${3:-10000} flood=${4:-60}
resumed=$((count < 4096 ? count : 4096)) # tickets that ike-load keeps
parts=${PARTS:-psk certificates ml-kem kept flood}
cd "$(dirname "$0")/.."
[ -n "${NO_BUILD:-}" ] || cargo build --quiet --release -p ikev2d -p cli
bin=$(realpath "${CARGO_TARGET_DIR:-target}")/release
root=${ESPLANADE_STRONGSWAN_ROOT:-}
# A path that a daemon in a folder of its own sees as well.
work=$(mktemp -d "$root/tmp/ike-load-XXXXXX") a=ikeload-a-$$ b=ikeload-b-$$ pid=
inside=${work#"$root"}
end() { [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; ip netns del $a; ip netns del $b; rm -rf "$work"; }
ip netns add $a; ip netns add $b; trap end EXIT INT TERM
ip -n $a link add wire type veth peer name wire netns $b
for n in $a $b; do ip -n $n link set lo up; ip -n $n link set wire up; done
ip -n $a addr add 10.77.0.1/24 dev wire; ip -n $b addr add 10.77.0.2/24 dev wire
# The inside address: each route has it as its source, and strongSwan installs no policy without one.
ip -n $b addr add 10.2.0.1/16 dev lo
ip -n $a route add local 10.64.0.0/14 dev lo; ip -n $b route add 10.64.0.0/14 via 10.77.0.1
psk=Load-Test-0123456789

(cd "$work"
mkdir swanctl; cd swanctl
mkdir x509 x509ca x509ocsp x509aa x509ac x509crl pubkey private rsa ecdsa bliss pkcs8 pkcs12
{
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; chmod 600 "$1"; }
key root.key; openssl req -x509 -new -key root.key -subj /CN=root -days 30 -out x509ca/root.pem
for end in initiator responder; do
    key private/$end.key
    printf 'subjectAltName=DNS:%s.load\n' $end >ext
    openssl req -new -key private/$end.key -subj /CN=$end -out csr
    openssl x509 -req -in csr -CA x509ca/root.pem -CAkey root.key -CAserial serial -CAcreateserial -days 30 -extfile ext -out x509/$end.pem
done
} 2>/dev/null)

# ikev2d KIND END: a configuration of ikev2d, which the load takes for its end, too.
ikev2d() {
    proposal=aes128gcm16-prfsha256-ecp256
    [ "$1" != ml-kem ] || proposal=aes128gcm16-prfsha256-x25519-ke1_mlkem768
    if [ "$1" = certificates ]; then
        local="auth = \"ecdsa-256-sha256\", certs = [\"$work/swanctl/x509/$2.pem\"]"
        remote="auth = \"pubkey\", cacerts = [\"$work/swanctl/x509ca/root.pem\"], revocation = \"off\""
        secret="[secrets.private-load]
file = \"$work/swanctl/private/$2.key\""
    else
        local='auth = "psk"' remote='auth = "psk"' secret="[secrets.ike-load]
secret = \"$psk\""
    fi
    if [ "$2" = responder ]; then ts='local_ts = ["10.2.0.0/16"]
remote_ts = ["10.128.0.0/9"]'
    else ts='local_ts = ["10.128.0.0/9"]
remote_ts = ["10.2.0.0/16"]
rekey_time = 0' remote="$remote, id = \"responder.load\""; fi
    cat <<END
[daemon]
vici_socket = "$work/vici"
log_level = "error"
tun = { name = "esp0", queues = 1 }
sa_cache = { capacity = 65536 }
[connections.load]
unique = "never"
resumption = "1h"
proposals = ["$proposal"]
local = { $local, id = "$2.load" }
remote = { $remote }
[connections.load.children.net]
$ts
esp_proposals = ["aes128gcm16"]
$secret
END
}
charon() {
    proposal=aes128gcm16-prfsha256-ecp256 auth=psk
    [ "$1" != ml-kem ] || proposal=aes128gcm16-prfsha256-x25519-ke1_mlkem768
    [ "$1" != certificates ] || auth=pubkey
    cat <<END
connections { load {
 version = 2
 unique = never
 proposals = $proposal
 local {
  auth = $auth
  id = responder.load
  $([ $auth = psk ] || echo certs = responder.pem)
 }
 remote {
  auth = $auth
  $([ $auth = psk ] || echo revocation = relaxed)
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
}
cat >"$work/strongswan.conf" <<END
charon {
 load = random nonce aes sha1 sha2 hmac kdf x509 pem pkcs1 pkcs8 pubkey constraints curve25519 ml openssl gcm kernel-libipsec kernel-netlink socket-default vici
 threads = 24
 plugins {
  vici { socket = unix://$inside/vici }
  kernel-libipsec { load = yes }
  kernel-netlink { fwmark = !0x42 }
  socket-default { fwmark = 0x42 }
 }
 syslog { daemon { default = -1 } }
}
charon-systemd { journal { default = -1 } }
END

ours() { ikev2d "$1" responder >"$work/ikev2d.toml"
    ip netns exec $b "$bin/ikev2d" --config "$work/ikev2d.toml" 2>"$work/log" & pid=$!; up; }
theirs() {
    charon "$1" >"$work/swanctl/swanctl.conf"
    # Another system's: it sees our devices and processes, and nobody else sees that.
    enter='[ -z "$1" ] || { mount --rbind /dev "$1/dev"; mount -t proc proc "$1/proc"; }
        exec ${1:+chroot "$1"} /usr/sbin/charon-systemd'
    STRONGSWAN_CONF=$inside/strongswan.conf ip netns exec $b unshare --mount sh -ec "$enter" sh "$root" \
        >"$work/log" 2>&1 & pid=$!
    up
    SWANCTL_DIR=$work/swanctl timeout 20 swanctl --load-all --uri "unix://$work/vici" >/dev/null
}
up() { for _ in $(seq 100); do [ -S "$work/vici" ] && sleep 0.3 && return; sleep 0.1; done; cat "$work/log"; exit 1; }
down() { kill "$pid"; wait "$pid" 2>/dev/null || true; pid=; rm -f "$work/vici"; }
load() { ip netns exec $a "$bin/esplanade" ike-load 10.77.0.2 -o json "$@"; }
field() { python3 -c 'import json,sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."): value = value[key]
print("%.1f" % value)' "$1" "$2"; }
has() { case " $parts " in *" $1 "*) ;; *) return 1 ;; esac; }
can() { # who, kind
    [ "$1" = ours ] && return
    [ -x "$root/usr/sbin/charon-systemd" ] && { [ "$2" != ml-kem ] || [ -n "$root" ]; }
}

for kind in psk certificates ml-kem; do
    has $kind || continue
    ikev2d $kind initiator >"$work/initiator.toml"
    for round in $(seq "$rounds"); do
        for who in ours theirs; do
            can $who $kind || continue
            $who $kind
            load --config "$work/initiator.toml" --count 200 --watch "$pid" >/dev/null
            load --config "$work/initiator.toml" --count "$count" --watch "$pid" >"$work/$kind.$who.$round"
            echo "$kind, round $round, $who: $(field "$work/$kind.$who.$round" up) up," \
                "$(field "$work/$kind.$who.$round" responder_cpu_us_per_sa) us of CPU per IKE SA," \
                "$(field "$work/$kind.$who.$round" per_second)/s, p99 $(field "$work/$kind.$who.$round" latency_ms.p99) ms"
            if [ $who = ours ]; then
                load --config "$work/initiator.toml" --count "$resumed" --resume --watch "$pid" >"$work/$kind.resumed.$round"
                echo "$kind, round $round, resumed: $(field "$work/$kind.resumed.$round" resumed)," \
                    "$(field "$work/$kind.resumed.$round" responder_cpu_us_per_sa) us of CPU per IKE SA"
            fi
            down
        done
    done
    python3 - "$work/$kind" "$kind" "$count" "$resumed" <<'END'
import glob, json, statistics, sys
cpu = {}
for who in ("ours", "theirs"):
    reports = [json.load(open(name)) for name in glob.glob(f"{sys.argv[1]}.{who}.*")]
    if any(report["up"] != int(sys.argv[3]) for report in reports):
        sys.exit(f"{sys.argv[2]}: not all of {who} came up: this measures nothing")
    if reports:
        cpu[who] = statistics.median(report["responder_cpu_us_per_sa"] for report in reports)
print(f"{sys.argv[2]}, median:", {who: round(value) for who, value in cpu.items()})
resumed = [json.load(open(name)) for name in glob.glob(f"{sys.argv[1]}.resumed.*")]
if any(report["resumed"] != int(sys.argv[4]) or report["up"] != report["resumed"] for report in resumed):
    sys.exit(f"{sys.argv[2]}: not all were resumed: this measures nothing")
again = statistics.median(report["responder_cpu_us_per_sa"] for report in resumed)
print("resumed: %.0f us, %.2f of a full exchange" % (again, again / cpu["ours"]))
if "theirs" in cpu:
    print("ours is %.2f of strongSwan's (bar: 0.35)" % (cpu["ours"] / cpu["theirs"]))
END
done

if has kept; then
    for who in ours theirs; do
        can $who psk || continue
        $who psk
        # What is there once, however many come, is told beside: libraries' tables, code not read before.
        started=$(awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$pid/status")
        load --psk $psk --count 20 --from 10.64.0.0/14 >/dev/null
        rekey=; [ $who = theirs ] || rekey=--rekey
        load --psk $psk --count "$kept" --from 10.64.0.0/14 --initiators 16 --keep $rekey --watch "$pid" >"$work/kept"
        python3 - "$work/kept" $who "$started" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
rss = r["responder_rss_bytes"]
print("%s: %d up, %d failed: %.0f octets of memory each (bar: 5000), %.0f with what is there once; rekeyed %d,"
    " children %d, lost %d" % (sys.argv[2], r["up"], r["failed"], rss["per_sa"],
    (rss["after"] - float(sys.argv[3])) / r["up"], r["rekeyed"], r["children_rekeyed"], r["lost"]))
END
        down
    done
fi

if has flood; then
    ours psk
    load --psk $psk --flood "$flood" --from 10.64.0.0/14 --port 1500 --nat-port 14500 --watch "$pid" >"$work/flood" &
    flooder=$!
    sleep 1
    load --psk $psk --count "$((flood * 2 - 4))" --rate 2 >"$work/through"
    wait $flooder
    echo "flood: $(field "$work/flood" per_second)/s for $flood s, memory grew by $(field "$work/flood" responder_growth_bytes)" \
        "octets (bar: 67108864); through it: $(field "$work/through" up) up, $(field "$work/through" failed) failed," \
        "p99 $(field "$work/through" latency_ms.p99) ms (bar: 2000)"
    down
fi
