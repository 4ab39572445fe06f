#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# From the doorbell to the completion over vfio-user: one 64-octet packet at a time, the simulated card
# in a process of its own on processor 0, the driver on processor 1, both polling.
#
#   benches/doorbell-latency.sh [ROUNDS [null|aes-gcm]]
#
# The clock runs from before `kick` until `dequeue` has given the completion, checked. "null" is a
# card that numbers packets and leaves them as they are (`esplanade sim --poll --null-crypto`); the
# way there and back is the same. The medians of the rounds are told; each round has 2,000,000 packets.
set -eu
rounds=${1:-3}
crypto=${2:-null}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p benches --bin doorbell-latency
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for round in $(seq "$rounds"); do
    "${CARGO_TARGET_DIR:-target}/release/doorbell-latency" "$crypto" >"$out/$round"
done
python3 - "$out" "$rounds" <<'PY'
import json, statistics, sys
out, rounds = sys.argv[1], int(sys.argv[2])
runs = [json.load(open(f"{out}/{n}")) for n in range(1, rounds + 1)]
median = lambda key: statistics.median(run[key] for run in runs)
print(f"doorbell to completion, {runs[0]['crypto']}, {sum(run['packets'] for run in runs)} packets in {rounds} rounds:")
for name, key in [("min", "min_ns"), ("p50", "p50_ns"), ("p90", "p90_ns"), ("p99", "p99_ns"), ("p99.9", "p99_9_ns"), ("max", "max_ns")]:
    print(f"  {name:6} {median(key):10.0f} ns   ({', '.join(str(run[key]) for run in runs)})")
held = median("p50_ns") <= 1000 and median("p99_ns") <= 3000
print("p50 <= 1 us and p99 <= 3 us:", "held" if held else "NOT HELD")
sys.exit(not held)
PY
