#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Tunnels between two namespaces, engine beside engine in turns: ours in software (ESP in UDP, and IP
# protocol 50), strongSwan's user-space ESP (kernel-libipsec), and the WireGuards in user space that
# are installed (wireguard-go, boringtun-cli, gotatun).
#
#   benches/tunnel.sh [ROUNDS [SECONDS [ENGINE...]]]        as root; BUILD=no: as it was built last
#
# Everybody has a bare veth pair beneath, one MTU, AES-128-GCM or ChaCha20-Poly1305, and the same two
# hosts that send and receive. "tcp": one iperf3 stream; "cpu": processor time of both gateways a
# gigabit of it. "64" and "1400": UDP packets of 64 octets of payload, and of 1400 octets with IP
# header, sent as fast as the host can, counted where they arrive. "delay": how much longer a probe's
# one way is than without a tunnel, beside packets of 1400 octets at half the rate that was reached.
# A table, and all figures as JSON in tunnel.json (or $OUT).
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "network namespaces need root" >&2; exit 1; }
command -v iperf3 >/dev/null || { echo "missing: apt-get install iperf3" >&2; exit 1; }
[ "${BUILD:-yes}" = no ] || cargo build --quiet --release -p ikev2d -p benches --bin ikev2d --bin datagrams
exec python3 benches/tunnel.py "${CARGO_TARGET_DIR:-target}/release" "$@"
