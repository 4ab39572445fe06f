#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Tunnels between two namespaces, in turns: ours in software (ESP in UDP, and IP protocol 50),
# strongSwan's user-space ESP, and the WireGuards in user space that are installed; by `esplanade bench
# --ptest tunnel` (docs/bench.md says what is measured), and then against the goals.
#
#   benches/tunnel.sh [ROUNDS [SECONDS [PEER,...]]]        as root; BUILD=no: as it was built last
#
# All figures go to tunnel.json (or $OUT). Exit status 1 where a goal is missed.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "strongSwan and WireGuard need root" >&2; exit 1; }
command -v iperf3 >/dev/null || { echo "missing: apt-get install iperf3" >&2; exit 1; }
[ "${BUILD:-yes}" = no ] || cargo build --quiet --release -p ikev2d -p cli --bin ikev2d --bin esplanade
OUT="${OUT:-tunnel.json}"
"${CARGO_TARGET_DIR:-target}/release/esplanade" bench --ptest tunnel --repeats "${1:-3}" --warm-up 0 \
	--tunnel-seconds "${2:-4}" --peers="${3:-all}" --buffer-sz 64,1400 --save "$OUT"
exec python3 benches/tunnel.py "$OUT"
