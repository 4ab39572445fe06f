#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Writes scapy-ah.json: AH packets made by scapy, an independent implementation. scapy knows no GMAC:
there the tag is pyca/cryptography's, over what scapy says that an ICV covers.

`sealed` is what goes out, `received` the same packet after its way (hop limits, DSCP, options and
source routes have changed), `opened` what scapy makes of that.

Run: pip install scapy cryptography && python3 generate_ah.py > scapy-ah.json
"""
import json
import random
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Pad1,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH, AUTH_ALGOS, SecurityAssociation, zero_mutable_fields
from scapy.packet import Raw

rng = random.Random(4302)
SUITES = [
    # (our name, scapy's, key octets)
    ("ah-sha1", "HMAC-SHA1-96", 20),
    ("ah-sha256", "SHA2-256-128", 32),
    ("ah-sha384", "SHA2-384-192", 48),
    ("ah-sha512", "SHA2-512-256", 64),
    ("ah-aes128gmac", None, 20),
    ("ah-aes192gmac", None, 28),
    ("ah-aes256gmac", None, 36),
    ("ah-aescmac", "AES-CMAC-96", 16),
]
ROUTE = ["2001:db8:7::1", "2001:db8:7::2", "fd02::9"]


class Gmac:
    """An algorithm in the form that scapy's security associations take."""

    name = "GMAC"
    icv_size = 24
    mac = None

    def check_key(self, key):
        pass

    def sign(self, pkt, key, esn_en=False, esn=0):
        covered = bytes(zero_mutable_fields(pkt.copy(), sending=True))
        if esn_en:
            covered += struct.pack("!L", esn)
        iv = self.iv
        pkt[AH].icv = iv + AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", covered)
        return pkt

    def verify(self, pkt, key, esn_en=False, esn=0):
        pkt = pkt.copy()
        icv = pkt[AH].icv[:24]
        covered = bytes(zero_mutable_fields(pkt, sending=False))
        if esn_en:
            covered += struct.pack("!L", esn)
        AESGCM(key[:-4]).decrypt(key[-4:] + icv[:8], icv[8:], covered)


AUTH_ALGOS["GMAC"] = Gmac()


def udp(size):
    return UDP(sport=7000, dport=53) / Raw(rng.randbytes(size))


def v4(size, options=()):
    header = IP(src="10.1.0.1", dst="10.2.0.9", tos=0x2A, ttl=61, flags="DF", id=7, options=list(options))
    return header / udp(size)


def option(kind, data):
    return IPOption(bytes([kind, 2 + len(data)]) + data)


def v4_options(size):
    options = [
        IPOption(b"\x01"),  # no operation
        option(148, b"\0\0"),  # router alert: immutable
        option(130, rng.randbytes(9)),  # security: immutable
        option(7, b"\x04" + bytes(4)),  # record route
        option(131, b"\x08" + rng.randbytes(4)),  # loose source route, used up
        option(68, b"\x05\x00" + bytes(4)),  # timestamp
    ]
    return v4(size, options)


def v6(size, *extensions):
    packet = IPv6(src="fd01::1", dst="fd02::9", tc=0x2A, fl=0x12345, hlim=61)
    for extension in extensions:
        packet = packet / extension
    return packet / TCP(sport=7000, dport=443) / Raw(rng.randbytes(size))


def hop_by_hop():
    mutable = HBHOptUnknown(otype=0x3E, optlen=5, optdata=rng.randbytes(5))
    kept = HBHOptUnknown(otype=0x1E, optlen=3, optdata=rng.randbytes(3))
    return IPv6ExtHdrHopByHop(options=[RouterAlert(value=0), mutable, kept, Pad1()])


def destination_options():
    mutable = HBHOptUnknown(otype=0x3F, optlen=4, optdata=rng.randbytes(4))
    kept = HBHOptUnknown(otype=0x1D, optlen=6, optdata=rng.randbytes(6))
    return IPv6ExtHdrDestOpt(options=[kept, mutable, PadN(optdata=b"\0" * 2)])


def v6_route(size):
    packet = v6(
        size,
        hop_by_hop(),
        destination_options(),
        IPv6ExtHdrRouting(type=0, segleft=len(ROUTE) - 1, addresses=ROUTE[1:]),
        destination_options(),
    )
    packet.dst = ROUTE[0]
    return packet


def on_the_way(sealed):
    """What routers make of a packet."""
    packet = sealed.__class__(bytes(sealed))
    if packet.version == 4:
        packet.ttl -= 9
        packet.tos = 0x03
        packet.flags = 0
        del packet.chksum
        for at, opt in enumerate(packet.options):
            if opt.option == 7:
                packet.options[at] = option(7, b"\x08" + rng.randbytes(4))
            elif opt.option == 4:
                packet.options[at] = option(68, b"\x09\x00" + rng.randbytes(4))
        return packet.__class__(bytes(packet))
    packet.hlim -= 9
    packet.tc = 0x03
    packet.fl = 0x54321
    layer = packet.payload
    while not isinstance(layer, AH):
        if isinstance(layer, IPv6ExtHdrRouting):
            route = [packet.dst, *layer.addresses]
            layer.segleft = 0
            layer.addresses = route[:-1]
            packet.dst = route[-1]
        else:
            for opt in layer.options:
                if opt.otype & 0x20:
                    opt.optdata = rng.randbytes(opt.optlen)
        layer = layer.payload
    return packet.__class__(bytes(packet))


SHAPES = {
    "v4": lambda size: (v4(size), None),
    "v4 options": lambda size: (v4_options(size), None),
    "v6": lambda size: (v6(size), None),
    "v6 hop-by-hop": lambda size: (v6(size, hop_by_hop()), None),
    "v6 route": lambda size: (v6_route(size), None),
    # scapy, as Linux, puts AH behind destination options; we put it in front, and open both.
    "v6 destination": lambda size: (v6(size, destination_options()), None),
    "v4 in v4": lambda size: (v4(size), 4),
    "v6 in v4": lambda size: (v6(size), 4),
    "v4 in v6": lambda size: (v4(size), 6),
    "v6 in v6": lambda size: (v6(size, hop_by_hop()), 6),
}

vectors = []
for name, algorithm, key_len in SUITES:
    for shape, make in SHAPES.items():
        for esn in (False, True):
            plain, outer = make(rng.choice([0, 1, 13, 64, 200]))
            plain = plain.__class__(bytes(plain))
            high, low = (rng.randrange(1, 2**31), rng.randrange(2**32)) if esn else (0, rng.randrange(1, 2**32))
            key, iv = rng.randbytes(key_len), b"" if algorithm else rng.randbytes(8)
            AUTH_ALGOS["GMAC"].iv = iv
            spi = rng.randrange(256, 2**32)
            tunnel = None
            if outer == 4:
                dont_fragment = "DF" if plain.version == 6 else plain.flags
                tunnel = IP(src="192.0.2.1", dst="192.0.2.2", tos=0x2A, id=max(low & 0xFFFF, 1), ttl=64, flags=dont_fragment)
            elif outer == 6:
                tunnel = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0x2A, hlim=64)
            sa = SecurityAssociation(
                AH, spi=spi, auth_algo=algorithm or "GMAC", auth_key=key, tunnel_header=tunnel, esn_en=esn, esn=high
            )
            sealed = sa.encrypt(plain, seq_num=low, esn_en=esn, esn=high)
            received = on_the_way(sealed)
            opened = sa.decrypt(received.copy(), esn_en=esn, esn=high)
            vectors.append(
                {
                    "suite": name,
                    "shape": shape,
                    "outer": outer,
                    "esn": esn,
                    "spi": spi,
                    "sequence": high << 32 | low,
                    "key": key.hex(),
                    "iv": iv.hex(),
                    "plain": bytes(plain).hex(),
                    "sealed": None if shape == "v6 destination" else bytes(sealed).hex(),
                    "received": bytes(received).hex(),
                    "opened": bytes(opened).hex(),
                }
            )
print(json.dumps(vectors, indent=0))
