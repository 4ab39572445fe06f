#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Opens every ESP packet of a tunnel in a capture with scapy, which checks its ICV; prints how many there were.

check_esp.py CAPTURE KEYS CIPHER INTEGRITY   where KEYS is one of the key log's tables, and the algorithms have
scapy's names. Exit status 77: no scapy here.
"""
import csv
import sys

try:
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.ipsec import ESP, SecurityAssociation
    from scapy.utils import PcapReader
except ImportError as error:
    print(error)
    sys.exit(77)

capture, keys, cipher, integrity = sys.argv[1:]
octets = lambda text: bytes.fromhex(text.removeprefix("0x"))
sas = {}
for row in csv.reader(open(keys)):
    spi = int(row[3], 16)
    sas[spi] = SecurityAssociation(
        ESP,
        spi=spi,
        crypt_algo=cipher,
        crypt_key=octets(row[5]),
        auth_algo=integrity,
        auth_key=octets(row[7]),
        tunnel_header=IP(),
    )
checked = set()
for frame in PcapReader(capture):
    if IP not in frame or ESP not in frame:
        continue
    packet = IP(bytes(frame[IP]))
    spi, number = packet[ESP].spi, packet[ESP].seq
    inner = sas[spi].decrypt(packet)
    assert ICMP in inner and inner[IP].src.startswith("10."), inner.summary()
    assert (spi, number) not in checked, "a number came twice"
    checked.add((spi, number))
print(len(checked), len({spi for spi, _ in checked}))
