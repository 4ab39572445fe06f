# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Holds a run of `esplanade bench --ptest tunnel` against the goals: tunnel.py RUN.json"""

import json
import sys

# As it comes, and as it is set where delays matter: rates are held by both, delays by the latter.
OURS = ("ikev2d", "ikev2d-busy-poll")
NO_PEERS = ("wire", "ikev2d-esp")
# An octet of ours may cost as much time as that of theirs, times this.
STRONGSWAN_TCP = 1 / 6
DELAY_US = {"p50": 60, "p99": 250}


def delays(cells):
    """Of a tunnel, in microseconds: what it adds at each percentile."""
    for (operation, _), cell in cells.items():
        if operation == "delay":
            nanos = {"p50": cell["value"]["median"], "p99": cell["tunnel"]["added_p99_ns"]}
            return {name: value / 1000 for name, value in nanos.items()}
    return None


def main():
    cells, held = {}, True
    for cell in json.load(open(sys.argv[1]))["cells"]:
        cells.setdefault(cell["backend"], {})[cell["operation"], cell["size"]] = cell
    ours = {name: cells.pop(name, {}) for name in OURS}

    def bar(text, good):
        nonlocal held
        held &= good
        print(f"{'held  ' if good else 'MISSED'}  {text}")

    for own, figures in ours.items():
        for name, theirs in cells.items():
            if name in NO_PEERS:
                continue
            for key in sorted(theirs.keys()):
                operation, size = key
                if operation == "delay":
                    continue
                what = f"{own}, {operation} {size} B"
                if key not in figures:
                    bar(f"{what}: not measured", False)
                    continue
                rate = theirs[key]["value"]["median"] / figures[key]["value"]["median"]
                least = 1 / STRONGSWAN_TCP if name == "strongswan" and operation == "tcp" else 1
                bar(f"{what}: {rate:.1f} x the rate of {name}, goal {least:.0f}", rate > least)
                cpu = figures[key]["tunnel"]["cpu"] / theirs[key]["tunnel"]["cpu"]
                bar(f"{what}: {cpu:.2f} x the processor time of {name}, goal below 1", cpu < 1)
    as_it_comes, low = (delays(figures) for figures in ours.values())
    for name, goal in DELAY_US.items():
        what = f"{OURS[1]}, delay added, {name}"
        if low is None:
            bar(f"{what}: not measured", False)
            continue
        beside = f" ({OURS[0]}: {as_it_comes[name]:.0f})" if as_it_comes else ""
        bar(f"{what}: {low[name]:.0f} us, goal {goal}{beside}", low[name] <= goal)
    sys.exit(not held)


if __name__ == "__main__":
    main()
