# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The register reference as one Markdown page."""

import re

from model import access, description, groups, memories, offset, registers

HEAD = """\
<!-- Generated from {source} by `cargo xtask regs`; change it there. -->
# The ipa card: registers

How they work together is told in [device-abi.md](device-abi.md). Everything is little-endian. RO: read only; RW: read and write; WO: write only, reads as zero. A register of 64 bits is accessed in two halves, the low one first.
"""

# Links of the Rust documentation have no target here.
RUST_LINK = re.compile(r"\[`(?:\w+::)*(\w+)`\]")


def export(tops, source: str) -> str:
    return "\n".join([HEAD.format(source=source)] + [section(top) for top in tops])


def section(top) -> str:
    lines = [f"## BAR {top.get_property('bar')}: {top.get_property('name').lower()}", "", description(top), ""]
    lines += [line for group in groups(top) for line in table(group)]
    if memories(top):
        lines += ["| offset | name | words | |", "|---|---|---|---|"]
        lines += [
            f"| {offset(memory):#06x} | `{memory.inst_name}` | {memory.get_property('mementries')} | {text(memory)} |"
            for memory in memories(top)
        ] + [""]
    return "\n".join(lines)


def table(group) -> list[str]:
    lines = [f"### {group.inst_name}", "", text(group), ""]
    if group.is_array:
        lines += [f"{group.array_dimensions[0]} of them, {group.array_stride:#x} apart.", ""]
    lines += ["| offset | name | bits | access | reset | |", "|---|---|---|---|---|---|"]
    for reg in registers(group):
        name, place = reg.inst_name, f"{offset(reg):#06x}"
        if reg.is_array:
            name += f"[{reg.array_dimensions[0]}]"
            place += f" + {reg.array_stride} n"
        fields = reg.fields()
        # Fields that are only parts of one value are in lower case.
        if all(field.inst_name.islower() for field in fields):
            told = text(reg) if fields[0].get_property("encode") is None else f"{text(reg)} {field_text(fields[0])}"
            lines.append(f"| {place} | `{name}` | {fields[-1].high}:{fields[0].low} | {row(fields[0], told)} |")
            continue
        lines.append(f"| {place} | `{name}` | | | | {text(reg)} |")
        for field in fields:
            lines.append(f"| | `.{field.inst_name}` | {bits(field)} | {row(field, field_text(field))} |")
    return lines + [""]


def bits(field) -> str:
    return str(field.low) if field.low == field.high else f"{field.high}:{field.low}"


def row(field, told: str) -> str:
    lock = field.get_property("swwel")
    if lock:
        told += f" Locked while `{lock.parent.parent.inst_name}.{lock.parent.inst_name}.{lock.inst_name}` is set."
    reset = field.get_property("reset")
    return f"{access(field)} | {'' if reset is None else format(reset, '#x')} | {told}"


def field_text(field) -> str:
    encoding = field.get_property("encode")
    if encoding:
        return " ".join(f"{member.value}: {member.rdl_desc}" for member in encoding)
    return text(field)


def text(node) -> str:
    return RUST_LINK.sub(r"`\1`", description(node)).replace("|", "\\|")
