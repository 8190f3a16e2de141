"""Verify Ed25519 signatures (RFC 8032) with the standard library alone. It never signs.

Why our own: the installer runs on a bare system, where no library can be trusted before this check.
It handles public values only, so nothing here needs constant time. Tests compare it with
`cryptography` on RFC 8032's vectors, on random messages, and on every kind of malformed input.

Rules, those of RFC 8032 §5.1.7 without leniency:
- Both points must be canonical encodings of points on the curve; S must be below the group's order.
- A public key of small order is refused: anybody can sign for it.
- The equation without the cofactor is checked, as OpenSSL and `cryptography` do.
"""

from __future__ import annotations

import hashlib
from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T), §5.1.4
_NEUTRAL: Final[_Point] = (0, 1, 1, 0)


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's over `message`.

    (1) Lengths. (2) The key is a canonical point, and not of small order. (3) R is a canonical
    point. (4) S < L. (5) S·B = R + SHA-512(R ‖ A ‖ M)·A.
    """
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:  # (1)
        return False
    a = _decompress(key)  # (2)
    if a is None or _equal(_multiply(8, a), _NEUTRAL):
        return False
    r = _decompress(signature[:32])  # (3)
    if r is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= _ORDER:  # (4)
        return False
    hashed = hashlib.sha512(signature[:32] + key + message).digest()
    h = int.from_bytes(hashed, "little") % _ORDER
    return _equal(_multiply(s, _BASE), _add(r, _multiply(h, a)))  # (5)


def _decompress(encoded: bytes) -> _Point | None:
    number = int.from_bytes(encoded, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    x = _recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _recover_x(y: int, sign: int) -> int | None:
    """The x of a point with this y whose lowest bit is `sign`; None where there is none."""
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if square == 0:
        return None if sign else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P:
        return None
    return _P - x if x & 1 != sign else x


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(scalar: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _equal(p: _Point, q: _Point) -> bool:
    return not ((p[0] * q[2] - q[0] * p[2]) % _P or (p[1] * q[2] - q[1] * p[2]) % _P)


def _base() -> _Point:
    point = _decompress((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))
    assert point is not None
    return point


_BASE: Final = _base()
