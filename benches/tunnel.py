# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Holds a run of `esplanade bench --ptest tunnel` against the goals: tunnel.py RUN.json"""

import json
import sys

OURS = "ikev2d"
# An octet of ours may cost as much time as that of theirs, times this.
STRONGSWAN_TCP = 1 / 6
DELAY_US = {"p50": 60, "p99": 250}


def main():
    cells = {}
    for cell in json.load(open(sys.argv[1]))["cells"]:
        cells.setdefault(cell["backend"], {})[cell["operation"], cell["size"]] = cell
    ours, held = cells.pop(OURS), True

    def bar(text, good):
        nonlocal held
        held &= good
        print(f"{'held  ' if good else 'MISSED'}  {text}")

    for name, theirs in cells.items():
        if name in ("wire", "ikev2d-esp", "ikev2d-busy-poll"):
            continue
        for key in ours.keys() & theirs.keys():
            operation, size = key
            if operation == "delay":
                continue
            rate = theirs[key]["value"]["median"] / ours[key]["value"]["median"]
            least = 1 / STRONGSWAN_TCP if name == "strongswan" and operation == "tcp" else 1
            bar(f"{operation} {size} B: {rate:.1f} x the rate of {name}, goal {least:.0f}", rate > least)
            cpu = ours[key]["tunnel"]["cpu"] / theirs[key]["tunnel"]["cpu"]
            bar(f"{operation} {size} B: {cpu:.2f} x the processor time of {name}, goal below 1", cpu < 1)
    for (operation, _), cell in ours.items():
        if operation == "delay":
            for name, nanos in (("p50", cell["value"]["median"]), ("p99", cell["tunnel"]["added_p99_ns"])):
                bar(f"delay added, {name}: {nanos / 1000:.0f} us, goal {DELAY_US[name]}", nanos / 1000 <= DELAY_US[name])
    sys.exit(not held)


if __name__ == "__main__":
    main()
