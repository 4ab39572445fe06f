#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# What the card's RTL takes, in clocks (so the machine does not matter): packets of 1420 octets with one SA
# and with 16, in gather lists, small ones, and reads of the DMA engine, all with a host that answers 250 clocks later; and what
# that would be at 250 MHz, which is arithmetic: nothing was placed and routed.
#
#   benches/rtl-clocks.sh
set -eu
cd "$(dirname "$0")/.."
cargo test --quiet -p fpga-cosim --features blocks --test card --test rtl --no-run
cargo test --quiet -p fpga-cosim --features blocks --test card --test rtl -- --nocapture \
    packets_of_1420 small_packets reads_reach_60 | python3 -c '
import re, sys
for line in sys.stdin:
    found = re.search(r"(\d+) (octets|SAs|pieces): ([\d.]+) clocks to seal, ([\d.]+) to open", line) \
        or re.search(r"(IPv.*)(): ([\d.]+) clocks to seal, ([\d.]+) to open", line)
    if found:
        octets = int(found[1]) if found[2] == "octets" else 1420
        rates = ["%.1f Mpps, %.1f Gbit/s" % (250 / clocks, 2 * octets / clocks) for clocks in map(float, found.groups()[2:])]
        print(found[0] + "; at 250 MHz %s and %s" % tuple(rates))
    elif "a clock" in line:
        print(line.strip())
'
