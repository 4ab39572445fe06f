#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Synthesises blocks of the card by yosys for UltraScale+, each out of context, and writes report.md.

    python3 synth.py [BLOCK...]        with PyPI's pyosys installed (fpga/formal/requirements.txt)

Without names, all blocks but the large ones. What is reported is yosys's count of cells; nothing is placed
or routed, so no frequency is told."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RTL = HERE.parent / "rtl"
PACKAGES = ["aes_pkg", "ghash_pkg", "ipa_card_pkg", "ipa_pkg"]
SAS = "-G SAS=1024"
BLOCKS = {
    "ipa_fetch": "-G QUEUES=8",
    "ipa_dma_read": "-G TAGS=64 -G LEAD=16",
    "ipa_decode": SAS,
    "ipa_esp_plan": SAS,
    "ipa_esp_stream": SAS,
    "ipa_esp_collect": "",
    "ipa_esp_verdict": SAS,
    "ipa_dma_write": "",
    "ipa_finish": SAS,
}
# Minutes each, so only by name: the engine with one lane, with four, and all of the card.
LARGE = {
    "gcm1": f"-G LANES=1 {SAS}",
    "gcm4": f"-G LANES=4 {SAS}",
    "ipa_card": SAS,
}


def synthesise(block: str) -> dict[str, int]:
    from pyosys import libyosys

    module = "ipa_gcm" if block in ("gcm1", "gcm4") else block
    parameters = (BLOCKS | LARGE)[block]
    files = " ".join(str(RTL / f"{name}.sv") for name in PACKAGES)
    design = libyosys.Design()
    with tempfile.NamedTemporaryFile(suffix=".json") as statistics:
        for command in (
            f"read_slang -D SYNTHESIS=1 {parameters} --top {module} -y {RTL} --libext .sv "
            f"{files} {RTL / module}.sv",
            f"synth_xilinx -family xcup -flatten -top {module}",
            f"tee -q -o {statistics.name} stat -json",
        ):
            libyosys.run_pass(command, design)
        cells = json.loads(Path(statistics.name).read_text(encoding="utf-8"))
    return cells["design"]["num_cells_by_type"]


def counts(cells: dict[str, int]) -> dict[str, int]:
    def of(*prefixes: str) -> int:
        return sum(count for name, count in cells.items() if name.startswith(prefixes))

    luts = sum(cells.get(f"LUT{inputs}", 0) for inputs in range(1, 7)) + of("INV")
    # Each is so many LUTs used as memory.
    memory = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2,
              "RAM128X1D": 4, "RAM256X1D": 8, "SRL16E": 1, "SRLC32E": 1}
    return {
        "LUT": luts,
        "LUT as memory": sum(cells.get(name, 0) * size for name, size in memory.items()),
        "FF": of("FD"),
        "BRAM36": of("RAMB36"),
        "BRAM18": of("RAMB18"),
        "URAM": of("URAM"),
        "CARRY8": of("CARRY8"),
        "MUXF": of("MUXF"),
    }


def version() -> str:
    from importlib.metadata import version as installed

    return installed("pyosys")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(json.dumps(counts(synthesise(arguments[1]))))
        return
    report = HERE / "report.json"
    known = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    for block in arguments or BLOCKS:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--one", block], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{block}: {(done.stdout + done.stderr)[-1500:]}", file=sys.stderr)
            continue
        row = json.loads(done.stdout.strip().splitlines()[-1])
        known[block] = {"parameters": (BLOCKS | LARGE)[block].replace("-G ", ""), "yosys": version(), **row}
        print(f"{block}: {row} in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        report.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    columns = list(next(iter(known.values())))
    lines = [
        "# Synthesis",
        "",
        "Cells by yosys, `synth_xilinx -family xcup`, each block out of context (`python3 fpga/syn/synth.py`). "
        "Nothing here was placed or routed: there is no frequency to tell.",
        "",
        "| block | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for block in BLOCKS | LARGE:
        if block in known:
            lines.append(f"| {block} | " + " | ".join(str(known[block][column]) for column in columns) + " |")
    (HERE / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


main(sys.argv[1:])
