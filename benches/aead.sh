#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# AEADs through the façade, against intel-ipsec-mb called directly and OpenSSL's EVP; and AES-CBC with
# HMACs in bursts, against the library's jobs called directly and what the engine does without it.
#
#   benches/aead.sh [ROUNDS OF EACH PROCESS] [OPTIONS OF THE BENCHMARK…]     # --cbc first: CBC's cells alone, with its options
#
# With --bound AES-GCM's times are also told as multiples of what the processor takes at least: as many rounds
# and carry-less multiplications as the algorithm has, from registers, timed in the same rounds.
#
# Five processes one after the other, since where a process has its memory decides up to 40 per cent of a cell; one core, bursts
# of 32 in place; in each round every engine has its turn at every cell. Times are medians of the processes'
# medians, ratios medians of their ratios.
# A façade's time has the making of its packets in it; the library's functions are called with nothing
# in between. Every text is fresh, and every opened one must be authentic. The
# exit status is 1 when a cell misses its bar: 1.0 of the library's time (0.8 at 64 and 128 octets of
# different SAs), 0.25 of OpenSSL's at 64 octets and 0.55 at 1,420. ChaCha20-Poly1305 and CBC: 1.05 of the
# library's time, which there is its burst of jobs, and 1.0 of OpenSSL's where the library is missing.
set -eu
rounds=${1:-5}
[ $# = 0 ] || shift
bins="aead cbc"
if [ "${1:-}" = --cbc ]; then
    bins=cbc
    shift
elif [ $# != 0 ]; then
    bins=aead
fi
cd "$(dirname "$0")/.."
if ! ldconfig -p | grep -q libIPSec_MB.so.1; then
    [ "$(id -u)" = 0 ] || { echo "missing: apt-get install libipsec-mb1" >&2; exit 1; }
    apt-get install -y --no-install-recommends libipsec-mb1 >/dev/null
fi
cargo build --quiet --release -p benches --bin aead --bin cbc
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
for process in 1 2 3 4 5; do
    for bin in $bins; do
        taskset -c 1 "${CARGO_TARGET_DIR:-target}/release/$bin" --rounds "$rounds" "$@" >"$out/$bin.$process"
    done
done
python3 - "$out"/* <<'PY'
import json, sys
from statistics import median
cells, missed = {}, 0
for cell in [cell for path in sys.argv[1:] for cell in json.load(open(path))]:
    key = cell["algorithm"], cell["direction"], cell["sas"], cell["size"]
    cells.setdefault(key, {}).setdefault(cell["engine"], []).append(cell["median_ns"])
def ratio(times, others):
    return median(a / b for a, b in zip(times, others)) if times and others else float("nan")
bounded = any("bound" in engines for engines in cells.values())
print("algorithm     dir  SAs  octets   façade  ipsec-mb   OpenSSL   of ipsec-mb   of OpenSSL"
      + ("    bound, façade's and ipsec-mb's multiple of it" if bounded else "") + "   (ns a packet)")
for (algorithm, direction, sas, size), engines in cells.items():
    ours = next(engines[name] for name in ("vaes-avx512", "ipsec-mb", "openssl") if name in engines)
    library, openssl = engines.get("ipsec-mb direct"), engines["openssl"]
    bars = []
    gcm = algorithm.endswith("gcm")
    if library:
        bars.append((ratio(ours, library), 1.05 if not gcm else 0.8 if sas > 1 and size <= 128 else 1.0))
    elif not gcm:
        bars.append((ratio(ours, openssl), 1.0))
    if gcm:
        bars += [(ratio(ours, openssl), bar) for at, bar in ((64, 0.25), (1420, 0.55)) if at == size]
    bound = engines.get("bound")
    multiples = f"   {median(bound):8.1f} {ratio(ours, bound):6.2f} {ratio(library or [], bound):6.2f}" if bound else ""
    bad = any(reached > bar for reached, bar in bars)
    missed += bad
    print(f"{algorithm:13} {direction} {sas:4} {size:7} {median(ours):8.1f}  {median(library or [float('nan')]):8.1f}"
          f"  {median(openssl):8.1f}   {ratio(ours, library):11.2f}  {ratio(ours, openssl):11.2f}{multiples}"
          f"   {'MISSED' if bad else ''}")
print(f"{len(cells)} cells, {missed} missed")
sys.exit(missed != 0)
PY
