"""Throwaway keys and signatures that come out the same each time. None of them guards anything.

Rules:
- RSA keys are files in keys/, since they take seconds to make. Keys on a curve are derived from
  their name. Both are public with this repository: every name says *simulated*.
- ECDSA is RFC 6979; the salt of RSASSA-PSS is a digest of what is signed. No real vendor signs so,
  and no verifier can tell.
- The two classes stand where cryptography's keys do, wherever code of ours asks a key to sign. Its
  own builders want the real thing: `real`, and ``ecdsa_deterministic=True``.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

HERE = Path(__file__).parent / "keys"


class EcKey:
    """A private key on a curve, which signs by RFC 6979 whatever it is asked for."""

    def __init__(self, name: str, curve: ec.EllipticCurve) -> None:
        stream = hashlib.sha512(f"simulated {curve.name} {name}".encode()).digest()
        # The orders of P-256 and P-384 have as many bits as their fields: one bit less is below.
        number = int.from_bytes(stream[: curve.key_size // 8], "big") >> 1
        self.real = ec.derive_private_key(number, curve)

    def sign(self, data: bytes, algorithm: ec.ECDSA) -> bytes:
        """A signature in DER."""
        return self.real.sign(data, ec.ECDSA(algorithm.algorithm, deterministic_signing=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class RsaKey:
    """A private RSA key, which draws the salt of PSS from what it signs."""

    def __init__(self, name: str) -> None:
        real = load_pem_private_key((HERE / f"simulated-{name}.pem").read_bytes(), None)
        assert isinstance(real, rsa.RSAPrivateKey)
        self.real = real
        self._numbers = real.private_numbers()

    def sign(self, data: bytes, scheme: Any, algorithm: hashes.HashAlgorithm) -> bytes:
        """A signature; PKCS #1 v1.5 draws nothing and is left to cryptography."""
        if isinstance(scheme, padding.PSS):
            return _pss(self._numbers, data, algorithm.name, scheme._salt_length)
        return self.real.sign(data, scheme, algorithm)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@functools.cache
def ec_key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> Any:
    """The key of this name on this curve: P-384 for AMD and NVIDIA, P-256 for Intel."""
    return EcKey(name, curve())


@functools.cache
def rsa_key(name: str) -> Any:
    """The key of keys/simulated-<name>.pem."""
    return RsaKey(name)


@functools.cache
def _pss(numbers: rsa.RSAPrivateNumbers, data: bytes, name: str, salt_bytes: int) -> bytes:
    """RSASSA-PSS (RFC 8017 §8.1.1, §9.1.1) with MGF1 over the same hash."""

    def hashed(*parts: bytes) -> bytes:
        return hashlib.new(name, b"".join(parts)).digest()

    modulus = numbers.public_numbers.n
    bits = modulus.bit_length() - 1
    length = (bits + 7) // 8
    message = hashed(data)
    salt = hashlib.shake_256(b"simulated salt" + message).digest(salt_bytes)
    h = hashed(bytes(8), message, salt)
    block = bytes(length - salt_bytes - len(h) - 2) + b"\x01" + salt
    mask = b"".join(hashed(h, i.to_bytes(4, "big")) for i in range(len(block) // len(h) + 1))
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=False))
    masked[0] &= 0xFF >> (8 * length - bits)
    value = int.from_bytes(bytes(masked) + h + b"\xbc", "big")
    one, other = pow(value, numbers.dmp1, numbers.p), pow(value, numbers.dmq1, numbers.q)
    signed = other + numbers.q * ((one - other) * numbers.iqmp % numbers.p)
    return signed.to_bytes((modulus.bit_length() + 7) // 8, "big")
