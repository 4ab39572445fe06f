#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The SA cache with a million SAs, against what it must reach.
#
#   benches/sa-cache.sh [SAS] [ROUNDS]
#
# One process writes (counters, grants, SAs that come and go), another looks SAs up at random, each on
# a core of its own; every look-up is timed by itself, its answer is checked, and the clock's own time
# is in it. Shared memory is what the kernel has given the file; private memory is the writer's own,
# the larger of that before and that after taking over. Taking over reads every slot, checks it and lays
# the index. Medians of the rounds; exit status 1 when one misses its bar.
set -eu
sas=${1:-1000000}
rounds=${2:-3}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p benches --bin sa-cache
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for round in $(seq "$rounds"); do
    "${CARGO_TARGET_DIR:-target}/release/sa-cache" "$sas" >"$out/$round"
done
echo "shared huge pages: $(cat /sys/kernel/mm/transparent_hugepage/shmem_enabled)"
python3 - "$out" "$rounds" <<'PY'
import json, statistics, sys
out, rounds = sys.argv[1], int(sys.argv[2])
runs = [json.load(open(f"{out}/{n}")) for n in range(1, rounds + 1)]
median = lambda key: statistics.median(run[key] for run in runs)
shared = max(median("shared_octets_per_sa"), median("shared_octets_per_sa_after_take_over"))
private = median("private_octets_per_sa_after_take_over")
missed = False
def show(what, value, unit, bar, good):
    global missed
    missed |= not good
    print(f"{what:34} {value:12,.1f} {unit:8} {bar:14} {'ok' if good else 'MISSED'}")
total = shared + private
show("memory an SA", total, "octets", "<= 512", total <= 512)
print(f"    shared {shared:.1f}, the writer's own {private:.1f}")
p99 = median("lookup_p99_ns")
show("look-up from another process, p99", p99, "ns", "<= 1,000", p99 <= 1000)
print(f"    p50 {median('lookup_p50_ns'):.0f}, p99.9 {median('lookup_p999_ns'):.0f} ns, the clock's own {median('clock_p50_ns'):.0f};"
      f" writer meanwhile {median('writes_per_second'):,.0f} writes/s, {median('sas_replaced'):,.0f} SAs replaced;"
      f" {median('lookups_per_second'):,.0f} look-ups/s")
insert = median("insert_per_second")
show("insert", insert, "SAs/s", ">= 500,000", insert >= 500_000)
rebuild = median("rebuild_seconds")
show("index rebuilt", rebuild * 1000, "ms", "<= 2,000", rebuild <= 2)
take_over = median("take_over_seconds")
show("taken over (index included)", take_over * 1000, "ms", "<= 2,000", take_over <= 2)
print(f"{runs[0]['sas']:,} SAs, {rounds} rounds of {runs[0]['lookups']:,} look-ups")
sys.exit(missed)
PY
