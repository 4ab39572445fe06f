# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Register blocks by peakrdl-regblock, behind AXI4-Lite."""

import re
import tempfile
from pathlib import Path

from peakrdl_regblock import RegblockExporter
from peakrdl_regblock.cpuif.axi4lite import AXI4Lite_Cpuif_flattened

HEAD = """\
// SPDX-License-Identifier: Apache-2.0 OR MIT
// Generated from {source} by `cargo xtask regs`; change it there.
"""


def export(top, source: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        RegblockExporter().export(
            top, folder, cpuif_cls=AXI4Lite_Cpuif_flattened,
            default_reset_activelow=True, err_if_bad_addr=True,
        )
        return {
            path.name: HEAD.format(source=source) + tidy(path.read_text(encoding="utf-8"))
            for path in sorted(Path(folder).iterdir())
        }


def packed(text: str) -> str:
    """Structures and the arrays in them, packed: verilator 5.006 can't select from others."""
    text = re.sub(r"\bstruct \{", "struct packed {", text)
    # An array's size goes in front of its name: of a structure, and of a vector.
    text = re.sub(r"^( *\}) (\w+)\[(\d+)\];$", lambda m: f"{m[1]} [{int(m[3]) - 1}:0] {m[2]};", text, flags=re.M)
    return re.sub(
        r"^( *)(\w+)((?: \[[^]]+\])?) (\w+)\[(\d+)\];$",
        lambda m: f"{m[1]}{m[2]} [{int(m[5]) - 1}:0]{m[3].strip()} {m[4]};",
        text,
        flags=re.M,
    )


def tidy(text: str) -> str:
    text = packed(text)
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"
