#!/usr/bin/python3
"""Makes a ticket as docs/protocol.md has it, and requests it.

    ticket.py --user alice --secret alice.totp http://home.example.org:8080/t/{ticket}

Debian: apt install python3 python3-nacl. With --print the ticket is printed
and nothing is requested.
"""
import argparse
import base64
import hashlib
import hmac
import http.client
import ipaddress
import os
import struct
import time
import urllib.error
import urllib.request

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt


def hkdf(secret, info, length):
    """HKDF-SHA256 (RFC 5869) without salt."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    out, block = b"", b""
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256)
        out += block
    return out[:length]


def short(data):
    return bytes([len(data)]) + data


def ticket(secret, user, at, ttl=0, doors=(), address=None, nonce=None):
    okm = hkdf(secret, b"webknock ticket v1", 40)
    key, key_id = okm[:32], okm[32:]
    nonce = nonce or os.urandom(24)
    payload = struct.pack(">QI", at, ttl) + short(user.encode())
    payload += bytes([len(doors)]) + b"".join(short(d.encode()) for d in doors)
    payload += short(ipaddress.ip_address(address).packed if address else b"")
    clear = b"\x01" + key_id
    sealed = clear + nonce + encrypt(payload, clear, nonce, key)
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", required=True)
    parser.add_argument("--secret", required=True, help="file with the secret in base32")
    parser.add_argument("--ttl", type=int, default=0, help="seconds; 0: the door's own")
    parser.add_argument("--door", action="append", default=[], help="one of the sequence's doors; none: all")
    parser.add_argument("--address", help="to open for, instead of the own")
    parser.add_argument("--time", type=int, default=None, help="seconds since 1970 [now]")
    parser.add_argument("--nonce", type=bytes.fromhex, help="24 bytes in hexadecimal, for tests alone")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("url", nargs="?", help="with {ticket} in it")
    args = parser.parse_args()

    with open(args.secret) as f:
        text = f.read().replace(" ", "").strip().rstrip("=").upper()
    secret = base64.b32decode(text + "=" * (-len(text) % 8))
    at = int(time.time()) if args.time is None else args.time
    segment = ticket(secret, args.user, at, args.ttl, args.door, args.address, args.nonce)
    if args.print:
        print(segment)
        return
    try:
        urllib.request.urlopen(args.url.replace("{ticket}", segment), timeout=10).close()
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
        pass  # a knock is answered by a reset, or by the cover


if __name__ == "__main__":
    main()
