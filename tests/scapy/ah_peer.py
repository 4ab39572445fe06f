#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Answers pings that come by AH, as the other end of a pair of SAs with manual keys.

ah_peer.py INTERFACE OWN PEER SPI_IN SPI_OUT KEY_IN KEY_OUT ESN   where the keys are of HMAC-SHA-256, and ESN is
0 or 1. Without arguments: whether scapy is here. Exit status 77: it is not; 1: an ICV was wrong.
"""
import socket
import sys

try:
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
    from scapy.layers.ipsec import AH, IPSecIntegrityError, SecurityAssociation
except ImportError as error:
    print(error)
    sys.exit(77)
if len(sys.argv) == 1:
    sys.exit(0)

interface, own, peer, spi_in, spi_out, key_in, key_out, esn = sys.argv[1:]
v6 = ":" in own
layer, family, ethernet = (IPv6, socket.AF_INET6, 0x86DD) if v6 else (IP, socket.AF_INET, 0x0800)


def sa(spi, key, source, destination):
    return SecurityAssociation(
        AH,
        spi=int(spi, 16),
        auth_algo="SHA2-256-128",
        auth_key=bytes.fromhex(key),
        tunnel_header=layer(src=source, dst=destination),
        esn_en=esn == "1",
        esn=0,
    )


inbound, outbound = sa(spi_in, key_in, peer, own), sa(spi_out, key_out, own, peer)
receiver = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethernet))
receiver.bind((interface, ethernet))
sender = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
while True:
    packet = layer(receiver.recv(65535))
    if AH not in packet or packet.dst != own:
        continue
    try:
        octets = bytes(inbound.decrypt(packet))
    except IPSecIntegrityError as error:
        sys.exit(f"{error}: {packet.summary()}")
    inner = (IP if octets[0] >> 4 == 4 else IPv6)(octets)
    if IP in inner and ICMP in inner and inner[ICMP].type == 8:
        asked = inner[ICMP]
        answer = ICMP(type=0, id=asked.id, seq=asked.seq) / bytes(asked.payload)
    elif ICMPv6EchoRequest in inner:
        asked = inner[ICMPv6EchoRequest]
        answer = ICMPv6EchoReply(id=asked.id, seq=asked.seq, data=asked.data)
    else:
        continue
    answer = inner.__class__(src=inner.dst, dst=inner.src) / answer
    if not v6:
        # The kernel would write an identification of its own in place of 0, and AH covers it.
        outbound.tunnel_header.id = outbound.seq_num & 0xFFFF or 1
    sender.sendto(bytes(outbound.encrypt(answer)), (peer, 0))
