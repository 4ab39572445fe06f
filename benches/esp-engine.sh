#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Whole ESP in tunnel mode through the software engine's queue pair (outer headers, padding, IV, numbers,
# ICV, replay, counters), against the AEAD alone; then on two cores: one SA's large bursts, which the
# engine shares out, with a helper that stays awake between them and with one that sleeps, and two workers,
# each with a queue pair, of one SA that both have, and of SAs of their own, with one engine and with two.
# Beside each stands what two cores gain where nothing of ours is between them: of two engines, one on each, of
# the AEAD alone, each core on its own, and, beside large bursts, of the AEAD alone on what one core has written,
# and how long two cores take that only read and write each cache line of a packet there.
# In how long a cache line goes to the other core and back tells whether they share a cache. None of that excuses
# what misses its bar, but for cores that are threads of one: nobody gains more of them than they give.
#
#   benches/esp-engine.sh [ROUNDS]
#
# One process; in each round every engine has its turn. Figures are medians over the rounds of each
# round's middle burst, in nanoseconds a packet from hand-over to the last completion; what two cores
# do is the median of the rounds' ratios. The exit status is 1 when a figure misses its bar.
set -eu
rounds=${1:-11}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p benches --bin esp-engine
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"${CARGO_TARGET_DIR:-target}/release/esp-engine" --rounds "$rounds" >"$out"
python3 - "$out" <<'PY'
import json, sys
run, missed = json.load(open(sys.argv[1])), 0
def bar(good):
    global missed
    missed += not good
    return "ok" if good else "MISSED"
print("octets  SAs     AEAD     seal     open   above the AEAD     Mpps    Gbit/s")
for cell in run["one_core"]:
    aead, seal, open_ = cell["aead_ns"], cell["seal_ns"], cell["open_ns"]
    worst = max(seal, open_)
    mpps, gbit = 1e3 / worst, cell["size"] * 8 / worst
    bars = []
    if cell["size"] == 64:
        bars = ["<= 35 above: " + bar(worst - aead <= 35), ">= 20 Mpps: " + bar(mpps >= 20)]
    if cell["size"] == 1420:
        bars = [">= 75 Gbit/s: " + bar(gbit >= 75)]
    bars.append("no allocation: " + bar(cell["allocations"] == 0))
    print(f"{cell['size']:6} {cell['sas']:4} {aead:8.1f} {seal:8.1f} {open_:8.1f} {seal - aead:8.1f} {open_ - aead:7.1f}"
          f" {mpps:8.1f} {gbit:9.1f}   {', '.join(bars)}")
for cell in run["cores"]:
    least, two, apart, aead = 1.7 if cell["sas"] == 1 else 1.9, cell["two_cores"], cell["apart"], cell["aead"]
    held = bar(min(two.values()) >= (least if aead >= 1.9 else min(least, 0.9 * aead)))
    helper = f", the helper {cell['helpers']}" if cell["helpers"] else ""
    handed = cell["aead_handed_over"]
    handed = f", handed over {handed:.2f} (a mere look by both {cell['looked_at_ns']:.0f} ns)" if handed else ""
    one = cell["one_core_ns"]
    print(f"{cell['sas']:4} SAs, {cell['size']} octets, bursts of {cell['burst']}, packets {cell['packets']}{helper}:"
          f" one core {one['seal']:.0f} (seal) and {one['open']:.0f} ns (open), two {two['seal']:.2f} and {two['open']:.2f} times as fast,"
          f" {one['seal'] / two['seal']:.0f} and {one['open'] / two['open']:.0f} ns;"
          f" an engine each {apart['seal']:.2f} and {apart['open']:.2f}, the AEAD alone {aead:.2f}{handed};"
          f" a line there and back {cell['line_ns']:.0f} ns; >= {least}: {held}")
sys.exit(missed != 0)
PY
