# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Register blocks by peakrdl-regblock, behind AXI4-Lite."""

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


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"
