"""The meter's nonces: random, for one lease, used once, bounded, and gone with the process."""

from __future__ import annotations

import itertools

import pytest

from marketplace import meter
from marketplace.meter import NONCE_SECONDS, NONCES_PER_LEASE_MAX, Nonces
from tests.marketplace.world import NOW
from trust.errors import RefusedError

LEASE, OTHER = "leas_" + "0" * 26, "leas_" + "1" * 26


def nonces() -> Nonces:
    counter = itertools.count(1)
    return Nonces(lambda size: next(counter).to_bytes(size, "big"))


def refuse(
    each: Nonces, nonce: bytes, lease: str = LEASE, now: int = NOW, code: str = "nonce-unknown"
) -> None:
    with pytest.raises(RefusedError) as caught:
        each.take(nonce, lease, now)
    assert caught.value.code == code


def test_nonce_is_used_once_by_its_own_lease() -> None:
    each = nonces()
    nonce = each.issue(LEASE, NOW)
    each.take(nonce, LEASE, NOW + NONCE_SECONDS * 1000)
    refuse(each, nonce)


def test_nonce_of_another_lease_is_used_up_by_the_attempt() -> None:
    each = nonces()
    nonce = each.issue(LEASE, NOW)
    refuse(each, nonce, OTHER)
    refuse(each, nonce, LEASE)


def test_old_unknown_and_restarted_markets_nonces_are_refused() -> None:
    each = nonces()
    nonce = each.issue(LEASE, NOW)
    refuse(nonces(), nonce)
    refuse(each, bytes(32))
    refuse(each, nonce, now=NOW + NONCE_SECONDS * 1000 + 1, code="nonce-stale")


def test_lease_that_says_hello_for_ever_holds_a_bounded_number_of_nonces() -> None:
    each = nonces()
    other = each.issue(OTHER, NOW)
    issued = [each.issue(LEASE, NOW) for _ in range(NONCES_PER_LEASE_MAX + 3)]
    for nonce in issued[:3]:
        refuse(each, nonce)
    for nonce in issued[3:]:
        each.take(nonce, LEASE, NOW)
    each.take(other, OTHER, NOW)  # nobody loses another's


def test_all_leases_together_hold_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "NONCES_MAX", 2)
    each = nonces()
    issued = [each.issue(f"leas_{n}", NOW) for n in range(3)]
    refuse(each, issued[0], "leas_0")
    each.take(issued[2], "leas_2", NOW)
