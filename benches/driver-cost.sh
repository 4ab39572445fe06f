#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# What a packet costs in the drivers, of the ipa card and of a QAT, against DPDK's crypto_null poll-mode
# driver, run alternately.
#
#   benches/driver-cost.sh [ROUNDS]
#
# Ours: enqueue + kick + dequeue of bursts of 32, descriptors and completions in shared memory, every
# completion checked, with a card in the same process that completes at once. "driver" leaves that
# card's own work out, "whole loop" has it and the making of the next operations in.
# The QAT's driver does ESP's protocol, too (headers, number, IV, padding, trailer, counters), which the ipa
# card does itself.
# DPDK: dpdk-test-crypto-perf, throughput, NULL cipher, 64-octet buffers, bursts of 32, one worker:
# taking and filling operations, enqueue, dequeue, giving them back. crypto_null writes no descriptor
# and reads no completion: it passes a pointer through a ring.
set -eu
rounds=${1:-5}
cd "$(dirname "$0")/.."
if ! command -v dpdk-test-crypto-perf >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "missing: apt-get install dpdk-dev librte-meta-crypto" >&2; exit 1; }
    apt-get install -y --no-install-recommends dpdk-dev librte-meta-crypto >/dev/null
fi
cargo build --quiet --release -p benches --bin driver-cost
ours=${CARGO_TARGET_DIR:-target}/release/driver-cost
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for round in $(seq "$rounds"); do
    taskset -c 1 "$ours" >"$out/ipa.$round"
    taskset -c 1 "$ours" qat >"$out/qat.$round"
    dpdk-test-crypto-perf -l 0,1 --no-huge -m 512 --no-pci --no-telemetry --vdev crypto_null -- \
        --ptest throughput --devtype crypto_null --optype cipher-only --cipher-algo null \
        --cipher-op encrypt --cipher-key-sz 0 --cipher-iv-sz 0 --buffer-sz 64 --burst-sz 32 \
        --total-ops 10000000 --pool-sz 8192 --silent --csv-friendly >"$out/dpdk.$round" 2>/dev/null
done
python3 - "$out" "$rounds" <<'PY'
import json, statistics, sys
out, rounds = sys.argv[1], int(sys.argv[2])
each = range(1, rounds + 1)
def dpdk(n):
    rows = [line.split(",") for line in open(f"{out}/dpdk.{n}")]
    # lcore, size, burst, enqueued, dequeued, failed, failed, million a second, Gbit/s, cycles
    [row] = [row for row in rows if len(row) == 10 and row[1] == "64"]
    assert row[3] == row[4]
    return 1000 / float(row[7])
theirs = statistics.median(map(dpdk, each))
print(f"crypto_null {theirs:6.1f} ns a packet")
for name in ("ipa", "qat"):
    ours = [json.load(open(f"{out}/{name}.{n}")) for n in each]
    median = lambda key: statistics.median(run[key] for run in ours)
    driver, loop = median("driver_ns"), median("whole_loop_ns")
    print(f"{name}")
    print(f"  driver     {driver:6.1f} ns a packet (enqueue and kick {median('enqueue_kick_ns'):.1f}, dequeue {median('dequeue_ns'):.1f})")
    print(f"  whole loop {loop:6.1f} ns a packet (the device's own part {median('card_ns'):.1f})")
    print(f"  ratio of medians to crypto_null: driver {driver / theirs:.2f}, whole loop {loop / theirs:.2f}")
    print(f"  allocations {sum(run['allocations'] for run in ours)} in {sum(run['packets'] for run in ours)} packets")
PY
