#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The offload API's queue pair on the software engine, against DPDK's crypto_aesni_gcm.
#
#   benches/queue-pair.sh [ROUNDS [OPTIONS OF esplanade bench…]]
#
# In each round every size is measured by all, DPDK's by dpdk-test-crypto-perf. Cycles are those of the
# time-stamp counter from making the operations to the last completion, one core, bursts of 32. "alone" is
# ours with the cryptography alone, as DPDK's is; "whole" is whole ESP (header, number, padding, trailer,
# counters), which DPDK's is not. Ratios are of medians; the exit status is 1 when one of "alone" is above 0.9.
set -eu
rounds=${1:-7}
[ $# = 0 ] || shift
cd "$(dirname "$0")/.."
if ! command -v dpdk-test-crypto-perf >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "missing: apt-get install dpdk-dev librte-meta-crypto" >&2; exit 1; }
    apt-get install -y --no-install-recommends dpdk-dev librte-meta-crypto >/dev/null
fi
cargo build --quiet --release -p cli
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"${CARGO_TARGET_DIR:-target}/release/esplanade" bench --silent --json --level crypto,packet --peers=dpdk-aesni-gcm \
    --aead-key-sz 16,32 --buffer-sz 64,128,256,512,1024,1420,2048,8192 --burst-sz 32 \
    --repeats "$rounds" "$@" >"$out"
python3 - "$out" <<'PY'
import json, sys
run, missed = json.load(open(sys.argv[1])), 0
for warning in run["machine"]["warnings"]:
    print("WARNING:", warning)
alone, whole, theirs = [{(cell["suite"], cell["operation"], cell["octets"]): cell["value"]["median"]
                         for cell in run["cells"] if cell["backend"] == name}
                        for name in ("software-crypto", "software", "dpdk-aesni-gcm")]
print("suite        operation  octets     alone     whole      DPDK   alone   whole   (cycles a packet; of DPDK's)")
for key, cycles in alone.items():
    dpdk, esp = theirs[key], whole[key]
    missed += cycles / dpdk > 0.9
    print(f"{key[0]:12} {key[1]:9} {key[2]:7.0f} {cycles:9.1f} {esp:9.1f} {dpdk:9.1f} {cycles / dpdk:7.2f} {esp / dpdk:7.2f}"
          f"   {'MISSED' if cycles / dpdk > 0.9 else ''}")
print(f"{len(alone)} cells, {missed} missed; interrupted: {run['interrupted']}")
sys.exit(missed != 0 or not alone)
PY
