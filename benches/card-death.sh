#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Cards that die under load, at random moments, and come back: killed, hung, reset, removed. Every
# packet on the wire is checked.
#
#   benches/card-death.sh [TRIALS]
#
# TRIALS of each kind, 1000 by default. "fallback" is from the stroke to the next packet delivered,
# "return" from the card's being there again to the SA's being in it. A run of less than 500 trials
# shows the 90th percentile and is no proof. Ends with 1 where a bar is missed.
set -eu
trials=${1:-1000}
cd "$(dirname "$0")/.."
cargo build --quiet --locked -p cli
out=$(mktemp)
trap 'rm -f "$out"' EXIT
for kind in kills removals resets hangs; do
    # One after another: each has the machine for itself.
    ESPLANADE_TRIALS=$trials cargo test --quiet --locked -p tests --test card_killed -- \
        --exact --nocapture "${kind}_at_random_moments_repeat_no_number_and_cost_no_more_than_the_rings_held" \
        >>"$out" 2>&1 || { grep -E 'panicked|^card-death' -A2 "$out" >&2 || tail -20 "$out" >&2; }
done
python3 - "$out" <<'PY'
import sys
runs = [dict(word.split("=", 1) for word in line.split("card-death: ")[1].split())
        for line in open(sys.argv[1]) if "card-death: " in line]
names = [run["kind"] for run in runs]
good = len(runs) == 4
def row(what, key, bar=None, limit=None):
    global good
    cells = []
    for run in runs:
        value = run[key]
        top = limit(run) if limit else None
        missed = top is not None and float(value) > top
        good &= not missed
        cells.append(value + (" !" if missed else ""))
    print(f"{what:<34}{bar or '':>12}" + "".join(f"{cell:>12}" for cell in cells))
print(f"{'':<34}{'bar':>12}" + "".join(f"{name:>12}" for name in names))
row("trials", "trials")
row("packets on the wire, all checked", "checked")
row("lost in rings, most in a trial", "most_lost", "32", lambda _: 32)
row("fallback, median, ms", "fallback_median_ms")
high = runs[0]["percentile"] if runs else "99"
row(f"fallback, p{high}, ms", "fallback_ms", "100 / 150", lambda run: 150 if run["kind"] == "Hung" else 100)
row("fallback, worst, ms", "fallback_worst_ms")
row("return, median, ms", "return_median_ms")
row(f"return, p{high}, ms", "return_ms", "1000", lambda _: 1000)
row("return, worst, ms", "return_worst_ms")
for what, key in [("(SA, sequence) twice", "numbers_twice"), ("(key, IV) twice", "ivs_twice"),
                  ("in the clear", "in_the_clear"), ("changed or refused", "changed"),
                  ("out of order", "out_of_order")]:
    row(what, key, "0", lambda _: 0)
if len(runs) != 4:
    print(f"only {len(runs)} of 4 kinds came to an end")
sys.exit(not good)
PY
