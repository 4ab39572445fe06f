# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Register offsets, flags and codes as Rust constants, bitflags and enums."""

import textwrap

from model import (
    REFERENCE, description, enumerations, groups, memories, offset, registers, reset,
)

HEAD = """\
// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PCI identity, BARs and register offsets.
//!
//! Generated from `{source}` by `cargo xtask regs`; change it there.

use bitflags::bitflags;

"""


def export(tops, source: str) -> str:
    parts = [HEAD.format(source=source), identity(tops)]
    for top in tops:
        parts += [module(group) for group in groups(top)]
    parts.append(flags(tops))
    parts += [enumeration(*found) for found in enumerations(tops)]
    parts.append(table(tops[0]))
    return "".join(parts)


def identity(tops) -> str:
    register_map, doorbells, msix = tops
    lines = []

    def constant(text: str, name: str, kind: str, value: str) -> None:
        lines.append(doc(text, None, 0))
        lines.append(f"pub const {name}: {kind} = {value};\n")

    constant("PCI vendor: Red Hat's, whose 0x1b36 range is for emulated devices.",
             "VENDOR_ID", "u16", f"{register_map.get_property('pci_vendor'):#06x}")
    constant("PCI device.", "DEVICE_ID", "u16", f"{register_map.get_property('pci_device'):#06x}")
    constant("PCI class: network and computing encryption (base 0x10, sub 0x00).",
             "CLASS_CODE", "u32", f"{register_map.get_property('pci_class'):#08x}")
    lines.append("\n")
    constant("BAR of the registers.", "REGISTER_BAR", "u32", str(register_map.get_property("bar")))
    constant("Octets of [`REGISTER_BAR`].", "REGISTER_BAR_SIZE", "u64",
             grouped(register_map.get_property("bar_size")))
    constant("BAR of the doorbells: one page for each queue pair, mappable.",
             "DOORBELL_BAR", "u32", str(doorbells.get_property("bar")))
    constant("Octets of a doorbell page.", "DOORBELL_PAGE", "u64",
             grouped(groups(doorbells)[0].array_stride))
    constant("BAR of the MSI-X table and pending bits.", "MSIX_BAR", "u32", str(msix.get_property("bar")))
    constant("Octets of [`MSIX_BAR`].", "MSIX_BAR_SIZE", "u64", grouped(msix.get_property("bar_size")))
    names = {"TABLE": "the MSI-X table", "PENDING": "the pending bits"}
    for memory in memories(msix):
        constant(f"Offset of {names[memory.inst_name]} in [`MSIX_BAR`].",
                 f"MSIX_{memory.inst_name}", "u64", grouped(offset(memory)))
    lines.append("\n")
    for reg in (reg for top in tops for group in groups(top) for reg in registers(group)):
        name = reg.get_property("constant")
        if name:
            constant(description(reg), name, "u32", grouped(reset(reg), 8))
    constant("What every register of a removed card reads as.", "ALL_ONES", "u32", "u32::MAX")
    return "".join(lines)


def module(group) -> str:
    lines = ["\n", doc(description(group), group, 0), f"pub mod {group.inst_name} {{\n"]
    for reg in registers(group):
        text = description(reg)
        if reg.get_property("constant"):
            text = f"[`super::{reg.get_property('constant')}`]."
        of = reg.get_property("flags") or next(
            (f.get_property("encode").type_name for f in reg.fields() if f.get_property("encode")), None)
        if of:
            text = f"{text.rstrip('.')}: [`super::{of}`]."
        lines.append(doc(text, group, 4))
        lines.append(f"    pub const {reg.inst_name}: u64 = {grouped(offset(reg))};\n")
        count = reg.get_property("count")
        if count:
            lines.append(doc(f"{count.capitalize()} that have a register.", group, 4))
            lines.append(f"    pub const {count}: u64 = {reg.array_dimensions[0]};\n")
    return "".join(lines + ["}\n"])


def flags(tops) -> str:
    sets = []
    for reg, group in ((reg, group) for top in tops for group in groups(top) for reg in registers(group)):
        name = reg.get_property("flags")
        if not name:
            continue
        lines = [
            doc(f"[`{group.inst_name}::{reg.inst_name}`].", None, 4),
            "    #[derive(Clone, Copy, Debug, PartialEq, Eq)]\n",
            f"    pub struct {name}: u32 {{\n",
        ]
        for field in reg.fields():
            lines.append(doc(description(field), None, 8))
            lines.append(f"        const {field.inst_name} = 1 << {field.low};\n")
        sets.append("".join(lines + ["    }\n"]))
    return "\nbitflags! {\n" + "\n".join(sets) + "}\n"


def enumeration(encoding, group, reg) -> str:
    name = encoding.type_name
    lines = [
        "\n",
        doc(f"[`{group.inst_name}::{reg.inst_name}`].", None, 0),
        "#[derive(Clone, Copy, Debug, PartialEq, Eq)]\n#[repr(u32)]\n",
        f"pub enum {name} {{\n",
    ]
    for member in encoding:
        lines.append(doc(member.rdl_desc, None, 4))
        lines.append(f"    {member.name} = {member.value},\n")
    members = ", ".join(member.name for member in encoding)
    lines.append(f"""}}

impl {name} {{
    /// The one with this code.
    pub fn from_code(code: u32) -> Option<Self> {{
        use {name}::*;
        [{members}]
            .into_iter()
            .find(|member| *member as u32 == code)
    }}
}}
""")
    return "".join(lines)


def table(register_map) -> str:
    """All registers of the register BAR by name, for tools that show them."""
    found = [(group, reg) for group in groups(register_map) for reg in registers(group)]
    lines = [f"""
/// A register of [`REGISTER_BAR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {{
    /// The module that its offset's constant is in.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Of the first one.
    pub offset: u64,
    /// 64 bits, not 32.
    pub wide: bool,
    /// It can be read.
    pub readable: bool,
    /// How many there are, one behind the other.
    pub count: u64,
}}

const fn named(
    group: &'static str,
    name: &'static str,
    offset: u64,
    wide: bool,
    readable: bool,
    count: u64,
) -> Register {{
    Register {{
        group,
        name,
        offset,
        wide,
        readable,
        count,
    }}
}}

/// The registers of [`REGISTER_BAR`].
#[rustfmt::skip]
pub const REGISTERS: [Register; {len(found)}] = [
"""]
    for group, reg in found:
        values = [
            f'"{group.inst_name}"', f'"{reg.inst_name}"', f"{group.inst_name}::{reg.inst_name}",
            str(reg.get_property("regwidth") == 64).lower(), str(reg.has_sw_readable).lower(),
            str(reg.array_dimensions[0] if reg.is_array else 1),
        ]
        lines.append(f"    named({', '.join(values)}),\n")
    return "".join(lines + ["];\n"])


def doc(text: str, group, indent: int) -> str:
    """A doc comment in `group`'s module, or at the top of the file."""
    def link(found) -> str:
        other, name, _ = found.groups()
        if group is not None and other == group.inst_name:
            return f"[`{name}`]"
        return f"[`{'' if group is None else 'super::'}{other}::{name}`]"

    # A module's own comment is resolved inside it.
    text = REFERENCE.sub(link, text)
    mark = " " * indent + "/// "
    return "".join(mark + line + "\n" for line in textwrap.wrap(
        text, 100 - len(mark), break_long_words=False, break_on_hyphens=False))


def grouped(value: int, digits: int = 4) -> str:
    """Hexadecimal with a `_` before each four digits, as rustfmt's readers expect."""
    text = f"{value:0{digits}x}"
    if len(text) > 4:
        text = f"{text[:-4]}_{text[-4:]}"
    return "0x" + text
