# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the initiators of this folder share: datagrams go out and come in as lines of hexadecimal; a minus is before
those that nobody answers."""
import sys


def send(message):
    print(message.hex(), flush=True)


def tell(message):
    print("-" + message.hex(), flush=True)


def receive():
    return bytes.fromhex(sys.stdin.readline())


def same(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, not {wanted!r}")


def kinds(packet, prefix, leftover):
    """Names of the payloads behind the header, each of which scapy must know, and whose lengths fit."""
    names = []
    while packet.payload:
        packet = packet.payload
        if isinstance(packet, leftover):
            sys.exit(f"scapy leaves over {bytes(packet).hex()} behind {names}")
        same(f"length of {packet.name}", packet.length, len(packet.original) - len(packet.payload.original))
        names.append(type(packet).__name__.removeprefix(prefix))
    return names
