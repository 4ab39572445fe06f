# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the exporters ask of a compiled register map."""

import re

from systemrdl.node import AddrmapNode, FieldNode, MemNode, RegfileNode, RegNode

# `group.NAME`, or `group.NAME.FIELD`: another register or field.
REFERENCE = re.compile(r"`([a-z_]+)\.([A-Z_]+)(?:\.([A-Z_]+))?`")


def groups(top: AddrmapNode) -> list[RegfileNode]:
    return [node for node in top.children() if isinstance(node, RegfileNode)]


def registers(group: RegfileNode) -> list[RegNode]:
    return [node for node in group.children() if isinstance(node, RegNode)]


def memories(top: AddrmapNode) -> list[MemNode]:
    return [node for node in top.children() if isinstance(node, MemNode)]


def offset(node) -> int:
    """Offset of the first of its kind in the BAR."""
    if isinstance(node, RegNode):
        return node.parent.raw_address_offset + node.raw_address_offset
    return node.raw_address_offset


def description(node) -> str:
    text = node.get_property("desc")
    if not text:
        raise SystemExit(f"{node.get_path()} has no description")
    return " ".join(text.split())


def reset(reg: RegNode) -> int:
    value = 0
    for field in reg.fields():
        value |= (field.get_property("reset") or 0) << field.low
    return value


def access(field: FieldNode) -> str:
    """As software sees it."""
    if not field.is_sw_writable:
        return "RO"
    return "RW" if field.is_sw_readable else "WO"


def enumerations(tops: list[AddrmapNode]) -> list:
    found = {}
    for top in tops:
        for group in groups(top):
            for reg in registers(group):
                for field in reg.fields():
                    encoding = field.get_property("encode")
                    if encoding:
                        found[encoding.type_name] = (encoding, group, reg)
    return list(found.values())
