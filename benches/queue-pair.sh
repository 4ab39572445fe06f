#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The offload API's queue pair on the software engine, against DPDK's crypto_aesni_gcm.
#
#   benches/queue-pair.sh [ROUNDS [OPTIONS OF esplanade bench…]]
#
# In each round every size is measured by both, DPDK's by dpdk-test-crypto-perf. Cycles are those of the
# time-stamp counter from making the operations to the last completion, one core, bursts of 32. Ours are
# whole ESP (header, number, padding, trailer, counters), DPDK's the AEAD alone. Ratios are of medians;
# the exit status is 1 when one is above 0.9.
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
"${CARGO_TARGET_DIR:-target}/release/esplanade" bench --silent --json --peers=dpdk-aesni-gcm \
    --aead-key-sz 16,32 --buffer-sz 64,128,256,512,1024,1420,2048,8192 --burst-sz 32 \
    --repeats "$rounds" "$@" >"$out"
python3 - "$out" <<'PY'
import json, sys
run, missed = json.load(open(sys.argv[1])), 0
for warning in run["machine"]["warnings"]:
    print("WARNING:", warning)
ours, theirs = [{(cell["suite"], cell["operation"], cell["octets"]): cell for cell in run["cells"]
                 if cell["backend"] == name} for name in ("software", "dpdk-aesni-gcm")]
print("suite        operation  octets      ours      DPDK   ratio   (cycles a packet)")
for key, cell in ours.items():
    a, b = cell["value"]["median"], theirs[key]["value"]["median"]
    missed += a / b > 0.9
    print(f"{key[0]:12} {key[1]:9} {key[2]:7.0f} {a:9.1f} {b:9.1f} {a / b:7.2f}   {'MISSED' if a / b > 0.9 else ''}")
print(f"{len(ours)} cells, {missed} missed; interrupted: {run['interrupted']}")
sys.exit(missed != 0 or not ours)
PY
