"""The verifier accepts what `cryptography` accepts, and no malformed thing."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_agent.install.ed25519 import _decompress, verify

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493

RFC_8032 = (  # §7.1: secret, public, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
)


def _library(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_verify(
    secret: str, public: str, message: str, signature: str
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert private.public_key().public_bytes_raw().hex() == public
    assert verify(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.binary(min_size=32, max_size=32),
    message=st.binary(max_size=200),
    bit=st.integers(0, 767),
)
def test_it_says_what_the_library_says_of_good_and_of_flipped_signatures(
    seed: bytes, message: bytes, bit: int
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert verify(key, signature, message)
    both = bytearray(key + signature)
    both[bit // 8] ^= 1 << bit % 8
    flipped_key, flipped = bytes(both[:32]), bytes(both[32:])
    assert not verify(flipped_key, flipped, message)
    assert not _library(flipped_key, flipped, message)
    assert not verify(key, signature, message + b"x")


def test_s_above_the_order_is_refused_though_the_equation_holds() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(key, signature[:32] + s.to_bytes(32, "little"), b"m")


@pytest.mark.parametrize(
    "key",
    [
        (1).to_bytes(32, "little"),  # the neutral point: R = S·B would do for any message
        (P - 1).to_bytes(32, "little"),  # order 2
        (0).to_bytes(32, "little"),  # order 4
        (P + 1).to_bytes(32, "little"),  # the neutral point, not canonical
        (1 | 1 << 255).to_bytes(32, "little"),  # x = 0 with its sign set
        (2).to_bytes(32, "little"),  # no point
    ],
)
def test_a_key_of_small_order_or_of_no_canonical_point_verifies_nothing(key: bytes) -> None:
    for r in (key, (1).to_bytes(32, "little"), bytes(32)):
        assert not verify(key, r + bytes(32), b"m")


@pytest.mark.parametrize(("key", "signature"), [(31, 64), (33, 64), (32, 63), (32, 65), (32, 0)])
def test_other_lengths_are_refused(key: int, signature: int) -> None:
    assert not verify(bytes(key), bytes(signature), b"")


def test_a_point_has_one_encoding() -> None:
    assert _decompress((3).to_bytes(32, "little")) is not None
    assert _decompress((P + 3).to_bytes(32, "little")) is None
