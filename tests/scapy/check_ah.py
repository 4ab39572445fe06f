#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Checks the ICV of every AH packet in a capture with scapy; prints how many there were.

check_ah.py CAPTURE KEYS   where KEYS is the key log's `ah_sa`. Exit status 77: no scapy here.
"""
import csv
import struct
import sys

try:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import AH, AUTH_ALGOS, zero_mutable_fields
    from scapy.utils import PcapReader
except ImportError as error:
    print(error)
    sys.exit(77)

ALGORITHMS = {
    "HMAC-SHA-1-96": "HMAC-SHA1-96",
    "HMAC-SHA-256-128": "SHA2-256-128",
    "HMAC-SHA-384-192": "SHA2-384-192",
    "HMAC-SHA-512-256": "SHA2-512-256",
    "AES-CMAC-96": "AES-CMAC-96",
}
capture, keys = sys.argv[1:]
sas = {int(row[3], 16): (row[6].split(" ")[0], bytes.fromhex(row[7][2:])) for row in csv.reader(open(keys))}
checked = {}
for frame in PcapReader(capture):
    packet = frame.getlayer(IP) if IP in frame else frame.getlayer(IPv6)
    if packet is None or AH not in packet:
        continue
    packet = packet.__class__(bytes(packet))
    algorithm, key = sas[packet[AH].spi]
    # With and without extended sequence numbers: the table does not say.
    for high in (b"", struct.pack("!L", 0)):
        copy = packet.copy()
        if algorithm in ALGORITHMS:
            known = AUTH_ALGOS[ALGORITHMS[algorithm]]
            icv = copy[AH].icv[: known.icv_size]
            mac = known.new_mac(key)
            mac.update(bytes(zero_mutable_fields(copy)) + high)
            fits = mac.finalize()[: known.icv_size] == icv
        else:
            iv, tag = copy[AH].icv[:8], copy[AH].icv[8:24]
            covered = bytes(zero_mutable_fields(copy)) + high
            fits = AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", covered) == tag
        if fits:
            break
    else:
        sys.exit(f"bad ICV: {packet.summary()}, number {packet[AH].seq}")
    numbers = checked.setdefault(packet[AH].spi, set())
    if packet[AH].seq in numbers:
        sys.exit(f"number {packet[AH].seq} of SPI {packet[AH].spi:08x} came twice")
    numbers.add(packet[AH].seq)
print(sum(len(numbers) for numbers in checked.values()), len(checked))
