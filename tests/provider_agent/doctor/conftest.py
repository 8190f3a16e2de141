"""A Genoa and a Turin chip under one pair of keys: RSA keys take seconds."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.provider_agent.doctor.machines import NOW
from trust.evidence.claims import Product
from trust.simulated import SimulatedChip, SimulatedRoot

Roots = dict[Product, SimulatedRoot]


@pytest.fixture(scope="session")
def roots() -> Roots:
    ark, ask = (rsa.generate_private_key(public_exponent=65537, key_size=4096) for _ in range(2))
    return {
        product: SimulatedRoot.certify(ark, ask, product=product, now=NOW, revoked_serials=())
        for product in (Product.GENOA, Product.TURIN)
    }


@pytest.fixture(scope="session")
def simulated_chip(roots: Roots) -> SimulatedChip:
    return roots[Product.GENOA].issue_chip(b"\x07" * 64, NOW)


@pytest.fixture(scope="session")
def turin_chip(roots: Roots) -> SimulatedChip:
    return roots[Product.TURIN].issue_chip(b"\x09" * 8 + bytes(56), NOW)
