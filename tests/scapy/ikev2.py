#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""An IKEv2 initiator whose messages scapy builds and reads, and whose cryptography is pyca's.

What comes in first is the first message of another initiator, to be read field by field. A line of JSON goes out with
SPIs and keys of the child SA, before it is deleted. Exit status 77: no scapy here.
"""
import hashlib
import hmac
import json
import os
import struct
import sys

import wire
from wire import receive, same, send

try:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from scapy.contrib.ikev2 import (
        IKEv2,
        IKEv2_AUTH,
        IKEv2_Delete,
        IKEv2_Encrypted,
        IKEv2_IDi,
        IKEv2_IDr,
        IKEv2_KE,
        IKEv2_Nonce,
        IKEv2_Notify,
        IKEv2_Proposal,
        IKEv2_SA,
        IKEv2_Transform,
        IKEv2_TSi,
        IKEv2_TSr,
        IPv4TrafficSelector,
    )
    from scapy.packet import Raw
except ImportError as error:
    print(error)
    sys.exit(77)

SECRET = b"correct horse"
INITIATOR, RESPONSE = 0x08, 0x20
SA_INIT, AUTH, INFORMATIONAL = 34, 35, 37
# Type, id and length of key of each transform.
IKE_SUITE = [(1, 20, 256), (2, 6, None), (4, 31, None)]
ESP_SUITE = [(1, 20, 128), (5, 0, None)]
ESP_SPI = bytes.fromhex("c0de0001")


def prf(key, data):
    return hmac.new(key, data, hashlib.sha384).digest()


def prf_plus(key, seed, length):
    out, block = b"", b""
    while len(out) < length:
        block = prf(key, block + seed + bytes([len(out) // 48 + 1]))
        out += block
    return out[:length]


def kinds(packet):
    return wire.kinds(packet, "IKEv2_", Raw)


def header(packet, raw, exchange, flags, number):
    same("length", packet.length, len(raw))
    same("version", packet.version, 0x20)
    same("exchange", packet.exch_type, exchange)
    same("flags", int(packet.flags), flags)
    same("message id", packet.id, number)


def notifications(packet):
    found = {}
    while packet.payload:
        packet = packet.payload
        if isinstance(packet, IKEv2_Notify):
            found[packet.type] = packet
    return found


def transforms(proposal):
    """Type, id, length of key."""
    found, at = [], proposal.trans
    while at:
        found.append((at.transform_type, at.transform_id, at.key_length if at.length > 8 else None))
        at = at.payload
    same("number of transforms", proposal.trans_nb, len(found))
    return found


def offer(proto, spi, wanted):
    """A proposal with these transforms."""
    chain = None
    for kind, number, bits in wanted:
        one = IKEv2_Transform(transform_type=kind, transform_id=number)
        if bits:
            one.length, one.key_length = 12, bits
        chain = one if chain is None else chain / one
    return IKEv2_SA(prop=IKEv2_Proposal(proto=proto, SPI=spi, trans_nb=len(wanted), trans=chain))


CODES = {IKEv2_IDi: 35, IKEv2_Delete: 42}


class Sealed:
    """SK of RFC 7296 section 3.14 with AES-256-GCM (RFC 5282)."""

    def __init__(self, spis, sk_ei, sk_er):
        self.spis, self.ours, self.theirs, self.iv = spis, sk_ei, sk_er, 0

    def seal(self, exchange, number, chain, flags=INITIATOR):
        inner = bytes(chain) + b"\0" if chain else b"\0"
        first = CODES[type(chain)] if chain else 0
        message = IKEv2(init_SPI=self.spis[0], resp_SPI=self.spis[1], next_payload=46, exch_type=exchange)
        message.flags, message.id = flags, number
        self.iv += 1
        iv = struct.pack("!Q", self.iv)
        body = IKEv2_Encrypted(next_payload=first, load=iv + bytes(len(inner) + 16))
        raw = bytes(message / body)
        sealed = AESGCM(self.ours[:32]).encrypt(self.ours[32:] + iv, inner, raw[:32])
        return raw[:40] + sealed

    def open(self, raw, exchange, number, flags=RESPONSE):
        packet = IKEv2(raw)
        header(packet, raw, exchange, flags, number)
        same("payloads", kinds(packet), ["Encrypted"])
        iv, sealed = raw[32:40], raw[40:]
        inner = AESGCM(self.theirs[:32]).decrypt(self.theirs[32:] + iv, sealed, raw[:32])
        inner = inner[: len(inner) - 1 - inner[-1]]
        first = packet[IKEv2_Encrypted].next_payload
        # Under a header of its own, so that scapy reads the chain.
        return IKEv2(bytes(IKEv2(next_payload=first, length=28 + len(inner))) + inner)


# What another initiator says first.
raw = receive()
first = IKEv2(raw)
header(first, raw, SA_INIT, INITIATOR, 0)
same("responder's SPI", first.resp_SPI, bytes(8))
names = kinds(first)
same("payloads", names[:3], ["SA", "KE", "Nonce"])
same("the others", set(names[3:]), {"Notify"})
proposal = first[IKEv2_SA].prop
same("proposal", (proposal.proposal, proposal.proto, proposal.SPIsize), (1, 1, 0))
same("transforms", transforms(proposal), IKE_SUITE)
same("group", (first[IKEv2_KE].group, len(first[IKEv2_KE].ke)), (31, 32))
told = notifications(first)
for kind, length in [(16388, 20), (16389, 20), (16430, 0)]:
    same(f"notification {kind}", (told[kind].proto, told[kind].SPIsize, len(told[kind].notify)), (0, 0, length))

# IKE_SA_INIT.
spi, nonce, private = os.urandom(8), os.urandom(32), X25519PrivateKey.generate()
request = IKEv2(init_SPI=spi, exch_type=SA_INIT, flags=INITIATOR)
request /= offer(1, b"", IKE_SUITE)
request /= IKEv2_KE(group=31, ke=private.public_key().public_bytes_raw()) / IKEv2_Nonce(nonce=nonce)
request = bytes(request)
send(request)
raw = receive()
answer = IKEv2(raw)
header(answer, raw, SA_INIT, RESPONSE, 0)
same("initiator's SPI", answer.init_SPI, spi)
names = kinds(answer)
same("payloads", names[:3], ["SA", "KE", "Nonce"])
same("transforms", transforms(answer[IKEv2_SA].prop), IKE_SUITE)
same("group", answer[IKEv2_KE].group, 31)
spis = (spi, answer.resp_SPI)
nonces = nonce + answer[IKEv2_Nonce].nonce
shared = private.exchange(X25519PublicKey.from_public_bytes(answer[IKEv2_KE].ke))
keys = prf_plus(prf(nonces, shared), nonces + spis[0] + spis[1], 48 + 36 + 36 + 48 + 48)
sk_d, sk_ei, sk_er, sk_pi, sk_pr = keys[:48], keys[48:84], keys[84:120], keys[120:168], keys[168:]
sealed = Sealed(spis, sk_ei, sk_er)


def auth(message, other_nonce, sk_p, identity):
    """RFC 7296 section 2.15; an identity without its generic header."""
    return prf(prf(SECRET, b"Key Pad for IKEv2"), message + other_nonce + prf(sk_p, identity))


# IKE_AUTH.
identity = IKEv2_IDi(IDtype=2, ID=b"a.test")
chain = identity / IKEv2_AUTH(auth_type=2, load=auth(request, answer[IKEv2_Nonce].nonce, sk_pi, bytes(identity)[4:]))
chain /= offer(3, ESP_SPI, ESP_SUITE)
ends = [("10.1.0.0", "10.1.255.255"), ("10.2.0.0", "10.2.255.255")]
selectors = [
    IPv4TrafficSelector(IP_protocol_ID=0, starting_address_v4=start, ending_address_v4=end) for start, end in ends
]
chain /= IKEv2_TSi(traffic_selector=[selectors[0]]) / IKEv2_TSr(traffic_selector=[selectors[1]])
send(sealed.seal(AUTH, 1, chain))
inner = sealed.open(receive(), AUTH, 1)
names = [name for name in kinds(inner) if name != "Notify"]
same("payloads", names, ["IDr", "AUTH", "SA", "TSi", "TSr"])
same("identity", (inner[IKEv2_IDr].IDtype, inner[IKEv2_IDr].ID), (2, b"b.test"))
same("method", inner[IKEv2_AUTH].auth_type, 2)
same("AUTH", inner[IKEv2_AUTH].load, auth(raw, nonce, sk_pr, b"\x02\0\0\0b.test"))
proposal = inner[IKEv2_SA].prop
same("proposal", (proposal.proposal, proposal.proto, proposal.SPIsize), (1, 3, 4))
same("transforms", transforms(proposal), ESP_SUITE)
for payload, (start, end) in zip((inner[IKEv2_TSi], inner[IKEv2_TSr]), ends):
    same("number of selectors", payload.number_of_TSs, 1)
    one = payload.traffic_selector[0]
    same("selector", (one.TS_type, one.IP_protocol_ID, one.length), (7, 0, 16))
    same("ports", (one.start_port, one.end_port), (0, 65535))
    same("addresses", (one.starting_address_v4, one.ending_address_v4), (start, end))
keymat = prf_plus(sk_d, nonces, 40)
child = {"spi_in": proposal.SPI.hex(), "in": keymat[:20].hex(), "spi_out": ESP_SPI.hex(), "out": keymat[20:].hex()}

# INFORMATIONAL: are you there? Then the child's deletion.
send(sealed.seal(INFORMATIONAL, 2, None))
same("nothing", kinds(sealed.open(receive(), INFORMATIONAL, 2)), [])
print(json.dumps(child), flush=True)
sys.stdin.readline()
send(sealed.seal(INFORMATIONAL, 3, IKEv2_Delete(proto=3, SPIsize=4, SPInum=1, SPI=[ESP_SPI])))
inner = sealed.open(receive(), INFORMATIONAL, 3)
same("payloads", kinds(inner), ["Delete"])
deleted = inner[IKEv2_Delete]
same("deleted", (deleted.proto, deleted.SPIsize, deleted.SPI), (3, 4, [proposal.SPI]))
print("done")
