#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Writes vectors for dpdk-test-crypto-perf: made by pyca/cryptography, an independent implementation.

Run: pip install cryptography && python3 generate.py
"""
import hmac
import os
import random

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

rng = random.Random(4941)
LEN = 64
here = os.path.dirname(os.path.abspath(__file__))


def write(name, digest, **fields):
    lines = ["# " + name]
    for key, value in fields.items():
        lines += [key + " =", ", ".join("0x%02x" % octet for octet in value)]
    lines += ["", "[t%d]" % LEN, "digest =", ", ".join("0x%02x" % octet for octet in digest)]
    with open(os.path.join(here, name + ".data"), "w") as out:
        out.write("\n".join(lines) + "\n")


def aead(name, algorithm, key_len, iv_len=12, aad_len=12):
    key, iv, aad, text = (rng.randbytes(n) for n in (key_len, iv_len, aad_len, LEN))
    sealed = algorithm(key).encrypt(iv, text, aad)
    write(name, sealed[LEN:], plaintext=text, ciphertext=sealed[:LEN], aead_key=key, aead_iv=iv, aead_aad=aad)


def chain(name, key_len, hash_name, hash_key_len, digest_len):
    key, iv, auth_key, text = (rng.randbytes(n) for n in (key_len, 16, hash_key_len, LEN))
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(text) + encryptor.finalize()
    digest = hmac.new(auth_key, ciphertext, hash_name).digest()[:digest_len]
    write(name, digest, plaintext=text, ciphertext=ciphertext, cipher_key=key, cipher_iv=iv, auth_key=auth_key)


aead("aes128gcm16", AESGCM, 16)
aead("aes256gcm16", AESGCM, 32)
aead("chacha20poly1305", ChaCha20Poly1305, 32)
chain("aes128-sha1", 16, "sha1", 20, 12)
chain("aes128-sha256", 16, "sha256", 32, 16)
chain("aes256-sha384", 32, "sha384", 48, 24)
chain("aes256-sha512", 32, "sha512", 64, 32)
