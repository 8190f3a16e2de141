"""Policies: which load, which do not, and what the shipped ones say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.trust.verifier.vendor import MEASUREMENT, policy
from trust.encoding import canonical_json, label_bytes, parse_json
from trust.errors import DocumentError, EncodingError, PolicyError
from trust.evidence.claims import Product
from trust.verifier.policy import (
    GENOA_FLOOR,
    TURIN_FLOOR,
    AppraisalPolicy,
    Demand,
    Presence,
    production,
    simulated_policy,
)
from trust.verifier.roots import VENDOR_ROOTS, PinnedRoot, RootKind, vendor_root

SIMULATED = PinnedRoot(kind=RootKind.SIMULATED, product=Product.GENOA, fingerprint=bytes(32))
LABEL = label_bytes("appraisal-policy")


def loaded(**changes: Any) -> AppraisalPolicy:
    """Change the JSON of a good policy, as somebody with an editor would, and load it."""
    value = parse_json(policy().encode()[len(LABEL) :])
    assert isinstance(value, dict)
    return AppraisalPolicy.parse(LABEL + canonical_json({**value, **changes}))


def test_a_policy_that_mixes_vendor_and_simulated_roots_does_not_load() -> None:
    mixed = [vendor_root(Product.GENOA).to_json(), SIMULATED.to_json()]
    with pytest.raises(PolicyError, match="never both"):
        loaded(roots=mixed)
    with pytest.raises(PolicyError, match="never both"):
        policy(roots=(vendor_root(Product.GENOA), SIMULATED))


def test_a_root_that_is_no_vendors_is_never_called_real() -> None:
    with pytest.raises(DocumentError, match="not the vendor's"):
        loaded(roots=[{**SIMULATED.to_json(), "kind": "real"}])
    with pytest.raises(DocumentError, match="not the vendor's"):
        PinnedRoot(
            kind=RootKind.REAL, product=Product.GENOA, fingerprint=VENDOR_ROOTS[Product.MILAN]
        )


def test_a_vendors_root_is_never_called_simulated() -> None:
    for product in Product:
        with pytest.raises(DocumentError, match="is a vendor's"):
            PinnedRoot(
                kind=RootKind.SIMULATED,
                product=Product.GENOA,
                fingerprint=VENDOR_ROOTS[product],
            )


def test_a_policy_without_roots_products_or_measurements_does_not_load() -> None:
    for field in ("roots", "products", "measurements"):
        with pytest.raises((DocumentError, PolicyError)):
            loaded(**{field: []})


def test_a_product_with_a_root_and_without_floors_does_not_load() -> None:
    with pytest.raises(PolicyError, match="wanted the same"):
        policy(roots=(vendor_root(Product.GENOA), vendor_root(Product.TURIN)))
    with pytest.raises(PolicyError, match="wanted the same"):
        policy(products=(GENOA_FLOOR, TURIN_FLOOR))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("roots", (SIMULATED, SIMULATED)),
        ("products", (GENOA_FLOOR, GENOA_FLOOR)),
        ("measurements", (MEASUREMENT, MEASUREMENT)),
        ("vlek_csp_ids", ("CN=a", "CN=a")),
        ("mitigations", (3, 3)),
    ],
)
def test_a_policy_that_says_one_thing_twice_does_not_load(field: str, value: Any) -> None:
    with pytest.raises(PolicyError, match="twice"):
        policy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("version", 0),
        ("vmpl", 4),
        ("report_version_least", 1),
        ("measurements", ["AAAA"]),
        ("mitigations", [64]),
        ("gpu", "maybe"),
        ("guest", {}),
        ("debug", True),
    ],
)
def test_a_value_outside_of_the_schema_does_not_load(field: str, value: Any) -> None:
    with pytest.raises(EncodingError):
        loaded(**{field: value})


def test_no_field_of_a_policy_allows_debug_or_migration() -> None:
    names = {field.name for field in dataclasses.fields(policy().guest)}
    assert names.isdisjoint({"debug", "migrate_ma"})
    value = parse_json(policy().encode()[len(LABEL) :])
    assert isinstance(value, dict)
    for name in ("debug", "migrate_ma"):
        with pytest.raises(DocumentError, match="unknown field"):
            loaded(guest={**value["guest"], name: "not demanded"})


def test_a_floor_for_a_part_that_a_product_does_not_have_does_not_load() -> None:
    with pytest.raises(PolicyError, match="Genoa has no fmc"):
        dataclasses.replace(GENOA_FLOOR, fmc=1)


def test_the_production_policy_pins_amd_and_refuses_milan() -> None:
    shipped = production([MEASUREMENT])
    assert shipped.kind is RootKind.REAL
    assert {root.fingerprint for root in shipped.roots} == {
        VENDOR_ROOTS[Product.GENOA],
        VENDOR_ROOTS[Product.TURIN],
    }
    assert shipped.floor_of(Product.MILAN) is None
    assert shipped.report_version_least == 3
    assert shipped.vlek_csp_ids == ()
    assert shipped.platform.alias_check_complete is Demand.SET
    assert (shipped.gpu, shipped.facility) == (Presence.NOT_DEMANDED, Presence.NOT_DEMANDED)


def test_the_simulated_policy_differs_from_production_in_its_roots_and_products_alone() -> None:
    simulated, shipped = simulated_policy(bytes(32), [MEASUREMENT]), production([MEASUREMENT])
    assert simulated.kind is RootKind.SIMULATED
    assert simulated.products == (GENOA_FLOOR,)
    assert dataclasses.replace(shipped, roots=simulated.roots, products=simulated.products) == (
        simulated
    )


def test_a_simulated_policy_has_no_default_root() -> None:
    with pytest.raises(TypeError):
        simulated_policy(measurements=[MEASUREMENT])  # type: ignore[call-arg]
    several = simulated_policy(bytes(32), [MEASUREMENT], further_roots=[bytes([1] * 32)])
    assert [root.fingerprint[0] for root in several.roots] == [0, 1]


def test_a_changed_policy_has_another_name() -> None:
    assert policy(number=2).digest != policy().digest
    assert policy(measurements=(bytes(48),)).digest != policy().digest
