"""JSON web tokens of a GitHub App: RS256, checked with nothing but arithmetic."""

import base64
import hashlib
import json
import time

from .store import Principal

# What PKCS #1 v1.5 puts in front of a SHA-256.
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def der(data, at=0):
    """Reads one value: its tag, its content, and where the next begins."""
    tag, length, begin = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
    return tag, data[begin : begin + length], begin + length


def public_key(data):
    """Modulus and exponent of a SubjectPublicKeyInfo or an RSAPublicKey, DER or PEM."""
    if data.startswith(b"-----"):
        data = base64.b64decode(b"".join(data.splitlines()[1:-1]))
    _, inner, _ = der(data)
    tag, first, following = der(inner)
    if tag == 0x30:
        _, bits, _ = der(inner, following)
        _, inner, _ = der(bits[1:])
        _, first, following = der(inner)
    _, exponent, _ = der(inner, following)
    return int.from_bytes(first, "big"), int.from_bytes(exponent, "big")


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verified(store, text):
    """The App, where the token is signed by its key and of this time: it lives for ten minutes at most."""
    try:
        head, body, signature = text.split(".")
        claims = json.loads(unpadded(body))
        if store.app is None or json.loads(unpadded(head)).get("alg") != "RS256":
            return None
        modulus, exponent = store.app["key"]
        size = (modulus.bit_length() + 7) // 8
        digest = DIGEST_INFO + hashlib.sha256(f"{head}.{body}".encode()).digest()
        wanted = b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
        if pow(int.from_bytes(unpadded(signature), "big"), exponent, modulus).to_bytes(size, "big") != wanted:
            return None
        now = time.time()
        timely = claims["iat"] <= now + 5 and now < claims["exp"] <= now + 605
        mine = str(claims["iss"]) in (str(store.app["id"]), f"Iv1.{store.app['id']:016x}")
        return Principal("app", store.app["slug"]) if timely and mine else None
    except (ValueError, KeyError, TypeError):
        return None
