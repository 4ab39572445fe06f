#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Clocks in a second of the verilated card with four lanes, all of them at work: packets of 1420 octets of
# 16 SAs, sealed, then opened, with a host that answers 250 clocks later. The host's memory and the
# glue are in the figure.
#
#   benches/cosim-speed.sh
set -eu
cd "$(dirname "$0")/.."
cargo test --quiet --release -p fpga-cosim --features rtl --test card --no-run
cargo test --quiet --release -p fpga-cosim --features rtl --test card -- \
    --ignored --nocapture clocks_in_a_second | python3 -c '
import statistics, sys
runs = [line.split()[1:] for line in sys.stdin if line.startswith("clocks/s:")]
sealing, opening = (statistics.median(float(run[n]) for run in runs) for n in (0, 1))
print("%d runs each: %.3f M clocks/s sealing, %.3f M opening" % (len(runs), sealing / 1e6, opening / 1e6))
held = min(sealing, opening) >= 150e3
print("0.15 M clocks/s:", "held" if held else "NOT HELD")
sys.exit(not held)
'
