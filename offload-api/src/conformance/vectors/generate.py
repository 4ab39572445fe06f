#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Writes scapy.json: ESP packets sealed by scapy and pyca/cryptography, an independent implementation.

Run: pip install scapy cryptography && python3 generate.py > scapy.json
With --further: scapy-further.json, of the suites that only software has. scapy knows no AES-XCBC-MAC:
it is made of pyca/cryptography's AES here, and RFC 3566's codes are asked of it first.
With --padded: scapy-padded.json, of tunnels with TFC padding behind the inner packet (RFC 4303 section
2.7), and of dummy packets (section 2.6).
"""
import json
import random
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AUTH_ALGOS, ESP, AuthAlgo, SecurityAssociation
from scapy.packet import Raw


class Xcbc:
    """AES-XCBC-MAC (RFC 3566 section 4)."""

    def __init__(self, key):
        self.keys = [self.aes(key, bytes([n]) * 16) for n in (1, 2, 3)]
        self.text = b""

    @staticmethod
    def aes(key, block):
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    def update(self, text):
        self.text += text

    def finalize(self):
        blocks = [self.text[n : n + 16] for n in range(0, len(self.text), 16)] or [b""]
        whole = len(blocks[-1]) == 16
        blocks[-1] = blocks[-1] if whole else (blocks[-1] + b"\x80").ljust(16, b"\0")
        add = lambda a, b: bytes(x ^ y for x, y in zip(a, b))
        blocks[-1] = add(blocks[-1], self.keys[1 if whole else 2])
        state = bytes(16)
        for block in blocks:
            state = self.aes(self.keys[0], add(state, block))
        return state


class XcbcAlgo(AuthAlgo):
    def new_mac(self, key):
        return Xcbc(key)


AUTH_ALGOS["AES-XCBC-MAC-96"] = XcbcAlgo(
    "AES-XCBC-MAC-96", mac=Xcbc, digestmod=algorithms.AES, icv_size=12, key_size=(16,)
)
for len_of, code in [(3, "5b376580ae2f19afe7219ceef172756f"), (32, "f54f0ec8d2b9f3d36807734bd5283fd4")]:
    mac = Xcbc(bytes(range(16)))
    mac.update(bytes(range(len_of)))
    assert mac.finalize().hex() == code, "RFC 3566 section 4.6"

rng = random.Random(4303)
SUITES = [
    # (our name, scapy cipher, key octets, salt octets, iv octets, scapy integrity or ICV octets, key octets)
    ("aes128gcm16", "AES-GCM", 16, 4, 8, None, 0),
    ("aes256gcm16", "AES-GCM", 32, 4, 8, None, 0),
    ("chacha20poly1305", "CHACHA20-POLY1305", 32, 4, 8, None, 0),
    ("aes128-sha256", "AES-CBC", 16, 0, 16, "SHA2-256-128", 32),
    ("aes256-sha384", "AES-CBC", 32, 0, 16, "SHA2-384-192", 48),
    ("aes192-sha512", "AES-CBC", 24, 0, 16, "SHA2-512-256", 64),
    ("null-sha256", "NULL", 0, 0, 0, "SHA2-256-128", 32),
    ("aes128-sha384", "AES-CBC", 16, 0, 16, "SHA2-384-192", 48),
    ("aes128-sha512", "AES-CBC", 16, 0, 16, "SHA2-512-256", 64),
    ("aes192-sha256", "AES-CBC", 24, 0, 16, "SHA2-256-128", 32),
    ("aes192-sha384", "AES-CBC", 24, 0, 16, "SHA2-384-192", 48),
    ("aes256-sha256", "AES-CBC", 32, 0, 16, "SHA2-256-128", 32),
    ("aes256-sha512", "AES-CBC", 32, 0, 16, "SHA2-512-256", 64),
    ("null-sha384", "NULL", 0, 0, 0, "SHA2-384-192", 48),
    ("null-sha512", "NULL", 0, 0, 0, "SHA2-512-256", 64),
]
MODES = ["transport", "tunnel4", "tunnel6", "tunnel4udp"]
SIZES = [0, 1, 13, 64, 500, 1399]
if "--further" in sys.argv:
    rng = random.Random(2405)
    CIPHERS = [
        ("3des", "3DES", 24, 8),
        ("des", "DES", 8, 8),
        ("aes128", "AES-CBC", 16, 16),
        ("aes192", "AES-CBC", 24, 16),
        ("aes256", "AES-CBC", 32, 16),
        ("null", "NULL", 0, 0),
    ]
    OLD = [("sha1", "HMAC-SHA1-96", 20), ("md5", "HMAC-MD5-96", 16)]
    NEW = [("sha256", "SHA2-256-128", 32), ("sha384", "SHA2-384-192", 48), ("sha512", "SHA2-512-256", 64)]
    SUITES = [
        (f"{name}-{hash}", cipher, key_len, 0, iv_len, auth, auth_len)
        for name, cipher, key_len, iv_len in CIPHERS
        for hash, auth, auth_len in OLD + (NEW if "des" in name else [])
    ]
    SUITES += [
        (f"aes{bits}{mode.lower()}{icv}", f"AES-{mode}", bits // 8, 3 if mode == "CCM" else 4, 8, icv, 0)
        for mode in ("GCM", "CCM")
        for icv in (8, 12, 16)
        for bits in (128, 192, 256)
        if mode == "CCM" or icv != 16 or bits == 192
    ]
    SUITES += [(f"aes{bits}gmac", "AES-NULL-GMAC", bits // 8, 4, 8, None, 0) for bits in (128, 192, 256)]
    SUITES += [
        ("null-aesxcbc", "NULL", 0, 0, 0, "AES-XCBC-MAC-96", 16),
        ("aes128-aesxcbc", "AES-CBC", 16, 0, 16, "AES-XCBC-MAC-96", 16),
        ("null-aescmac", "NULL", 0, 0, 0, "AES-CMAC-96", 16),
        ("aes256-aescmac", "AES-CBC", 32, 0, 16, "AES-CMAC-96", 16),
    ]
    MODES = ["transport", "tunnel4udp"]
    SIZES = [0, 1, 13, 64, 200]
PADDINGS = []
if "--padded" in sys.argv:
    rng = random.Random(27)
    NAMES = ["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "null-sha256"]
    SUITES = [suite for suite in SUITES if suite[0] in NAMES]
    MODES = ["tunnel4", "tunnel6", "tunnel4udp", "dummy4"]
    SIZES = [0, 13, 500]
    PADDINGS = [1, 3, 40, 255, 700]


def inner(version, size):
    payload = Raw(rng.randbytes(size))
    if version == 4:
        packet = IP(src="10.1.0.1", dst="10.2.0.9", tos=0x2A, ttl=61, flags="DF") / UDP(sport=7000, dport=53)
    else:
        packet = IPv6(src="fd01::1", dst="fd02::9", tc=0x2A, hlim=61) / TCP(sport=7000, dport=443)
    return packet / payload


def pad(packet, padding):
    """Octets behind a packet, whose own lengths stay as they are."""
    octets = bytes(packet)
    header_len = 20 if packet.version == 4 else 40
    return packet.__class__(octets[:header_len]) / Raw(octets[header_len:] + padding)


def cut_icv(packet, surplus):
    """Takes octets off the end of a sealed packet and mends its lengths and checksum.

    scapy gives AES-GCM its whole tag, whatever crypt_icv_size says. A shorter tag is the leftmost part of
    the whole one (NIST SP 800-38D section 7.1). CCM's depends on its length; there scapy does as told.
    """
    packet[ESP].data = packet[ESP].data[:-surplus]
    if packet.version == 4:
        del packet.len, packet.chksum
    else:
        del packet.plen
    if UDP in packet:
        del packet[UDP].len
    return packet


vectors = []
for name, cipher, key_len, salt_len, iv_len, auth, auth_len in SUITES:
    for mode in MODES:
        for version in (4, 6):
            for esn in (False, True):
                size = rng.choice(SIZES)
                key, auth_key = rng.randbytes(key_len + salt_len), rng.randbytes(auth_len)
                iv = rng.randbytes(iv_len)
                high, low = (rng.randrange(1, 2**31), rng.randrange(2**32)) if esn else (0, rng.randrange(1, 2**32))
                spi = rng.randrange(256, 2**32)
                outer = None
                if mode == "dummy4":
                    # Sealed in transport mode, the packet's protocol becomes the next header.
                    dummy = IP(src="192.0.2.1", dst="192.0.2.2", proto=59) / Raw(rng.randbytes(size + 1))
                elif mode.startswith("tunnel4"):
                    outer = IP(src="192.0.2.1", dst="192.0.2.2", tos=0x2A, ttl=64, id=0, flags="DF")
                elif mode == "tunnel6":
                    outer = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0x2A, hlim=64)
                sa = SecurityAssociation(
                    ESP,
                    spi=spi,
                    crypt_algo=cipher,
                    crypt_key=key,
                    crypt_icv_size=auth if isinstance(auth, int) else None,
                    auth_algo=auth if isinstance(auth, str) else "NULL",
                    auth_key=auth_key,
                    tunnel_header=outer,
                    nat_t_header=UDP(sport=4500, dport=61234, chksum=0) if mode.endswith("udp") else None,
                    esn_en=esn,
                    esn=high,
                )
                plain = inner(version, size)
                plain = plain.__class__(bytes(plain))
                padding = rng.randbytes(rng.choice(PADDINGS)) if PADDINGS else b""
                sent = pad(plain, padding) if padding else plain
                if mode == "dummy4":
                    plain, padding, sent = b"", b"", dummy
                sealed = sa.encrypt(sent, seq_num=low, iv=iv, esn_en=esn, esn=high)
                if cipher == "AES-GCM" and isinstance(auth, int) and auth < 16:
                    sealed = cut_icv(sealed, 16 - auth)
                vectors.append(
                    {
                        "suite": name,
                        "mode": "tunnel4" if mode == "dummy4" else mode,
                        "esn": esn,
                        "spi": spi,
                        "sequence": high << 32 | low,
                        "key": key.hex(),
                        "integrity_key": auth_key.hex(),
                        "iv": iv.hex(),
                        "plain": bytes(plain).hex(),
                        **({"padding": padding.hex()} if PADDINGS else {}),
                        "sealed": bytes(sealed).hex(),
                    }
                )
print(json.dumps(vectors, indent=0))
