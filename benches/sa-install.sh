#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# SAs installed in a second in a simulated card over vfio-user: one admin command each, and 64 with a
# command; and how long a failover takes to give a card that has returned 10,000 SAs back.
#
#   benches/sa-install.sh [ROUNDS]
set -eu
rounds=${1:-3}
cd "$(dirname "$0")/.."
cargo build --quiet --release -p benches --bin sa-install
for round in $(seq "$rounds"); do
    "${CARGO_TARGET_DIR:-target}/release/sa-install"
done | python3 -c '
import json, statistics, sys
decoder, text, runs = json.JSONDecoder(), sys.stdin.read().strip(), []
while text:
    run, end = decoder.raw_decode(text)
    runs.append(run)
    text = text[end:].strip()
middle = lambda key: statistics.median(run[key] for run in runs)
one, many = middle("one_by_one_per_second"), middle("many_at_once_per_second")
print("%d SAs, %d rounds: %.0f/s one by one, %.0f/s many at once: %.1f times" % (runs[0]["sas"], len(runs), one, many, many / one))
print("%d SAs are back in a card after %.0f ms" % (runs[0]["returning"], middle("return_ms")))
'
