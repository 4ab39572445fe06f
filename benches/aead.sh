#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# AEADs through the façade, against intel-ipsec-mb called directly (AES-GCM) and OpenSSL's EVP.
#
#   benches/aead.sh [ROUNDS] [OPTIONS OF THE BENCHMARK…]
#
# One process, one core, bursts of 32 in place; in each round every engine has its turn at every cell.
# A façade's time has the making of its packets in it; the library's functions are called with nothing
# in between. Every text is fresh, and every opened one must be authentic. Ratios are of medians; the
# exit status is 1 when a cell misses its bar: 1.0 of the library's time (0.8 at 64 and 128 octets of
# different SAs), 0.25 of OpenSSL's at 64 octets and 0.55 at 1,420.
set -eu
rounds=${1:-11}
[ $# = 0 ] || shift
cd "$(dirname "$0")/.."
if ! ldconfig -p | grep -q libIPSec_MB.so.1; then
    [ "$(id -u)" = 0 ] || { echo "missing: apt-get install libipsec-mb1" >&2; exit 1; }
    apt-get install -y --no-install-recommends libipsec-mb1 >/dev/null
fi
cargo build --quiet --release -p benches --bin aead
out=$(mktemp)
trap 'rm -f "$out"' EXIT
taskset -c 1 "${CARGO_TARGET_DIR:-target}/release/aead" --rounds "$rounds" "$@" >"$out"
python3 - "$out" <<'PY'
import json, sys
cells, missed = {}, 0
for cell in json.load(open(sys.argv[1])):
    key = cell["algorithm"], cell["direction"], cell["sas"], cell["size"]
    cells.setdefault(key, {})[cell["engine"]] = cell["median_ns"]
print("algorithm dir  SAs  octets   façade  ipsec-mb   OpenSSL   of ipsec-mb   of OpenSSL   (ns a packet)")
for (algorithm, direction, sas, size), engines in cells.items():
    ours = next(engines[name] for name in ("vaes-avx512", "ipsec-mb", "openssl") if name in engines)
    library, openssl = engines.get("ipsec-mb direct"), engines["openssl"]
    bars = []
    if library:
        bars.append((ours / library, 0.8 if sas > 1 and size <= 128 else 1.0))
    if algorithm != "chacha20":
        bars += [(ours / openssl, bar) for at, bar in ((64, 0.25), (1420, 0.55)) if at == size]
    bad = any(ratio > bar for ratio, bar in bars)
    missed += bad
    print(f"{algorithm:9} {direction} {sas:4} {size:7} {ours:8.1f}  {library or float('nan'):8.1f}  {openssl:8.1f}"
          f"   {ours / library if library else float('nan'):11.2f}  {ours / openssl:11.2f}   {'MISSED' if bad else ''}")
print(f"{len(cells)} cells, {missed} missed")
sys.exit(missed != 0)
PY
