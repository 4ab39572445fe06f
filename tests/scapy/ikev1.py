#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""An IKEv1 initiator (main mode, quick mode) whose messages scapy builds and reads, and whose cryptography is pyca's.

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
from wire import receive, same, send, tell

try:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from scapy.layers.isakmp import (
        ISAKMP,
        ISAKMP_payload_Delete,
        ISAKMP_payload_Hash,
        ISAKMP_payload_ID,
        ISAKMP_payload_KE,
        ISAKMP_payload_Nonce,
        ISAKMP_payload_Proposal,
        ISAKMP_payload_SA,
        ISAKMP_payload_Transform,
        ISAKMP_payload_VendorID,
    )
    from scapy.packet import Raw
except ImportError as error:
    print(error)
    sys.exit(77)

SECRET = b"correct horse"
MAIN, INFORMATIONAL, QUICK = 2, 5, 32
ESP_SPI = bytes.fromhex("c0de0001")
PHASE_1 = [
    ("Encryption", "AES-CBC"),
    ("KeyLength", 256),
    ("Hash", "SHA2-256"),
    ("GroupDesc", 19),
    ("Authentication", "PSK"),
    ("LifeType", "Seconds"),
    ("LifeDuration", 3600),
]
PHASE_2 = [
    ("EncapsulationMode", "Tunnel"),
    ("KeyLength", 128),
    ("AuthenticationAlgorithm", "HMAC-SHA2-256"),
    ("LifeType", "seconds"),
    ("LifeDuration", 3600),
]
ESP_AES = 12


def prf(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def kinds(packet):
    return wire.kinds(packet, "ISAKMP_payload_", Raw)


def header(packet, raw, exchange, encrypted, number):
    same("length", packet.length, len(raw))
    same("version", packet.version, 0x10)
    same("exchange", packet.exch_type, exchange)
    same("flags", int(packet.flags), int(encrypted))
    same("message id", packet.id, number)


def offer(proto, spi, number, attributes):
    transform = ISAKMP_payload_Transform(transform_count=1, transform_id=number, transforms=attributes)
    return ISAKMP_payload_SA(prop=ISAKMP_payload_Proposal(proto=proto, SPI=spi, trans_nb=1, trans=transform))


def check_offer(payload, proto, spi_size, number, wanted):
    """A proposal with one transform, with at least these attributes; all of them."""
    same("DOI and situation", (payload.doi, payload.situation), (1, 1))
    proposal = payload.prop
    same("proposal", (proposal.proto, proposal.SPIsize, proposal.trans_nb), (proto, spi_size, 1))
    same("nothing behind it", bytes(proposal.payload), b"")
    transform = proposal.trans
    same("transform", (transform.transform_id, bytes(transform.payload)), (number, b""))
    found = dict(transform.transforms)
    for kind, value in wanted:
        same(kind, found.get(kind), value)
    return proposal


class Cbc:
    """Encryption of RFC 2409 appendix B: an IV for each exchange, which goes on from message to message."""

    def __init__(self, key, iv):
        self.key, self.iv = key, iv

    def of(self, number):
        """That of a phase 2 exchange."""
        return Cbc(self.key, hashlib.sha256(self.iv + struct.pack("!L", number)).digest()[:16])

    def seal(self, exchange, number, first, chain):
        inner = bytes(chain)
        inner += bytes(-len(inner) % 16)
        encryptor = Cipher(algorithms.AES(self.key), modes.CBC(self.iv)).encryptor()
        sealed = encryptor.update(inner) + encryptor.finalize()
        self.iv = sealed[-16:]
        message = ISAKMP(init_cookie=cookies[0], resp_cookie=cookies[1], next_payload=first, exch_type=exchange)
        message.flags, message.id = 1, number
        return bytes(message / Raw(sealed))

    def open(self, raw, exchange, number):
        packet = ISAKMP(raw)
        header(packet, raw, exchange, True, number)
        decryptor = Cipher(algorithms.AES(self.key), modes.CBC(self.iv)).decryptor()
        inner = decryptor.update(raw[28:]) + decryptor.finalize()
        self.iv = raw[-16:]
        # Its payloads, without the padding behind them.
        end, kind = 0, packet.next_payload
        while kind:
            kind, length = inner[end], struct.unpack("!H", inner[end + 2 : end + 4])[0]
            end += length
        same("padding", len(inner) - end < 16 and not any(inner[end:-1]), True)
        inner = inner[:end]
        return ISAKMP(bytes(ISAKMP(next_payload=packet.next_payload, length=28 + end)) + inner), inner


# What another initiator says first.
raw = receive()
first = ISAKMP(raw)
header(first, raw, MAIN, False, 0)
same("responder's cookie", first.resp_cookie, bytes(8))
names = kinds(first)
same("payloads", (names[0], set(names[1:])), ("SA", {"VendorID"}))
check_offer(first[ISAKMP_payload_SA], 1, 0, 1, PHASE_1[:6])
vendors, at = [], first[ISAKMP_payload_VendorID]
while at:
    vendors.append(at.VendorID.hex())
    at = at.payload
for known in ["afcad71368a1f1c96b8696fc77570100", "4a131c81070358455c5728f20e95452f"]:
    same("vendor id", known in vendors, True)

# Main mode.
cookies = [os.urandom(8), bytes(8)]
offered = offer(1, b"", 1, PHASE_1)
request = ISAKMP(init_cookie=cookies[0], exch_type=MAIN) / offered
# Without what follows the generic header (RFC 2409 section 5: SAi_b).
sa_body = bytes(ISAKMP(bytes(request))[ISAKMP_payload_SA])[4:]
send(bytes(request))
raw = receive()
answer = ISAKMP(raw)
header(answer, raw, MAIN, False, 0)
same("initiator's cookie", answer.init_cookie, cookies[0])
same("payload", kinds(answer)[0], "SA")
check_offer(answer[ISAKMP_payload_SA], 1, 0, 1, PHASE_1)
cookies[1] = answer.resp_cookie

private = ec.generate_private_key(ec.SECP256R1())
point = private.public_key().public_numbers()
public = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
nonce = os.urandom(32)
request = ISAKMP(init_cookie=cookies[0], resp_cookie=cookies[1], exch_type=MAIN)
send(bytes(request / ISAKMP_payload_KE(ke=public) / ISAKMP_payload_Nonce(nonce=nonce)))
raw = receive()
answer = ISAKMP(raw)
header(answer, raw, MAIN, False, 0)
same("payloads", kinds(answer)[:2], ["KE", "Nonce"])
theirs, their_nonce = answer[ISAKMP_payload_KE].ke, answer[ISAKMP_payload_Nonce].nonce
peer = ec.EllipticCurvePublicNumbers(
    int.from_bytes(theirs[:32], "big"), int.from_bytes(theirs[32:], "big"), ec.SECP256R1()
)
shared = private.exchange(ec.ECDH(), peer.public_key())
skeyid = prf(SECRET, nonce + their_nonce)
both = cookies[0] + cookies[1]
skeyid_d = prf(skeyid, shared + both + b"\x00")
skeyid_a = prf(skeyid, skeyid_d + shared + both + b"\x01")
skeyid_e = prf(skeyid, skeyid_a + shared + both + b"\x02")
phase_1 = Cbc(skeyid_e, hashlib.sha256(public + theirs).digest()[:16])
identity = ISAKMP_payload_ID(IDtype=2, IdentData=b"a.test")
proof = prf(skeyid, public + theirs + both + sa_body + bytes(identity)[4:])
send(phase_1.seal(MAIN, 0, 5, identity / ISAKMP_payload_Hash(hash=proof)))
inner, _ = phase_1.open(receive(), MAIN, 0)
same("payloads", kinds(inner)[:2], ["ID", "Hash"])
told = inner[ISAKMP_payload_ID]
same("identity", (told.IDtype, told.IdentData), (2, b"b.test"))
proof = prf(skeyid, theirs + public + cookies[1] + cookies[0] + sa_body + b"\x02" + bytes(told)[5:8] + b"b.test")
same("HASH_R", inner[ISAKMP_payload_Hash].hash, proof)

# Quick mode.
NETS = [bytes([10, 1, 0, 0, 255, 255, 0, 0]), bytes([10, 2, 0, 0, 255, 255, 0, 0])]
number, nonce = 0x5CA91E01, os.urandom(32)
quick = phase_1.of(number)
rest = offer(3, ESP_SPI, ESP_AES, PHASE_2) / ISAKMP_payload_Nonce(nonce=nonce)
for net in NETS:
    rest /= ISAKMP_payload_ID(IDtype=4, IdentData=net)
bare = bytes(rest)
proof = prf(skeyid_a, struct.pack("!L", number) + bare)
chain = bytes(ISAKMP_payload_Hash(next_payload=1, hash=proof)) + bare
send(quick.seal(QUICK, number, 8, Raw(chain)))
inner, octets = quick.open(receive(), QUICK, number)
names = kinds(inner)
same("payloads", names[:5], ["Hash", "SA", "Nonce", "ID", "ID"])
proof = prf(skeyid_a, struct.pack("!L", number) + nonce + octets[36:])
same("HASH(2)", inner[ISAKMP_payload_Hash].hash, proof)
proposal = check_offer(inner[ISAKMP_payload_SA], 3, 4, ESP_AES, PHASE_2)
for at, net in enumerate(NETS):
    told = inner.getlayer(ISAKMP_payload_ID, nb=at + 1)
    same("proxy id", (told.IDtype, told.ProtoID, told.Port, told.IdentData), (4, 0, 0, net))
their_nonce = inner[ISAKMP_payload_Nonce].nonce
proof = prf(skeyid_a, b"\0" + struct.pack("!L", number) + nonce + their_nonce)
tell(quick.seal(QUICK, number, 8, ISAKMP_payload_Hash(hash=proof)))


def keymat(spi):
    seed = b"\x03" + spi + nonce + their_nonce
    first = prf(skeyid_d, seed)
    return (first + prf(skeyid_d, first + seed))[:48].hex()


their_spi = bytes(proposal.SPI)
child = {"spi_in": their_spi.hex(), "in": keymat(their_spi), "spi_out": ESP_SPI.hex(), "out": keymat(ESP_SPI)}
print(json.dumps(child), flush=True)
sys.stdin.readline()

# The child's deletion, which nobody answers.
number = 0x5CA91E02
rest = ISAKMP_payload_Delete(doi=1, proto=3, SPIsize=4, SPIcount=1, SPIs=[ESP_SPI])
proof = prf(skeyid_a, struct.pack("!L", number) + bytes(rest))
tell(phase_1.of(number).seal(INFORMATIONAL, number, 8, ISAKMP_payload_Hash(next_payload=12, hash=proof) / rest))
print("done")
