# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Generates everything that comes from ipa.rdl, under the root given; `cargo xtask regs` runs it.

peakrdl-rust's accessors are volatile pointers into a mapped BAR. Here a register may also be
reached by messages to another process, so our own exporter writes plain offsets and flags.
"""

import argparse
from pathlib import Path

from peakrdl_html import HTMLExporter
from peakrdl_regblock.udps import ALL_UDPS
from systemrdl import RDLCompiler

import markdown
import rust
import systemverilog

SOURCE = "fpga/regs/ipa.rdl"
MAPS = ["ipa_registers", "ipa_doorbells", "ipa_msix"]
# The map is that of the largest card; the RTL's has eight queue pairs.
RTL_BLOCKS = {"ipa_registers": {"VECTORS": 9}, "ipa_doorbells": {"QUEUES": 8}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the workspace with ipa.rdl")
    parser.add_argument("output", type=Path, help="where the generated files go, laid out like the workspace")
    parser.add_argument("--html", type=Path, help="also write the browsable reference to this folder")
    arguments = parser.parse_args()

    compiler = RDLCompiler()
    for property_ in ALL_UDPS:
        compiler.register_udp(property_, soft=False)
    compiler.compile_file(str(arguments.source / SOURCE))
    maps = {name: compiler.elaborate(name).top for name in MAPS}

    written = {
        "fpga/regs/src/registers.rs": rust.export(list(maps.values()), SOURCE),
        "docs/registers.md": markdown.export(list(maps.values()), SOURCE),
    }
    for name, parameters in RTL_BLOCKS.items():
        block = compiler.elaborate(name, parameters=parameters).top
        for file, text in systemverilog.export(block, SOURCE).items():
            written[f"fpga/rtl/generated/{file}"] = text
    for file, text in written.items():
        path = arguments.output / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if arguments.html:
        HTMLExporter().export(list(maps.values()), str(arguments.html))


if __name__ == "__main__":
    main()
