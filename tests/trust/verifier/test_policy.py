"""Policies: which load, which do not, and what the shipped ones say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.trust.verifier.vendor import MEASUREMENT, changed, policy
from trust.encoding import canonical_json, label_bytes, parse_json
from trust.errors import DocumentError, EncodingError, PolicyError
from trust.evidence.claims import Platform, Product
from trust.evidence.nvidia import FeatureMode
from trust.verifier.facility import FacilityDemands
from trust.verifier.policy import (
    AppraisalPolicy,
    any_facility,
    production,
    simulated_policy,
    without_gpus,
)
from trust.verifier.roots import Anchor, PinnedRoot, RootKind, amd_root, vendor_root
from trust.verifier.snp_policy import GENOA_FLOOR, TURIN_FLOOR, Demand, SnpDemands
from trust.verifier.tdx_policy import TdxImage

SIMULATED = PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.GENOA, fingerprint=bytes(32))
LABEL = label_bytes("appraisal-policy")


def loaded(**changes: Any) -> AppraisalPolicy:
    """Change the JSON of a good policy, as somebody with an editor would, and load it."""
    value = parse_json(policy().encode()[len(LABEL) :])
    assert isinstance(value, dict)
    snp = value["snp"]
    assert isinstance(snp, dict)
    own = {name: changes.pop(name) for name in set(changes) & set(value)}
    return AppraisalPolicy.parse(
        LABEL + canonical_json({**value, "snp": {**snp, **changes}, **own})
    )


def demands(made: AppraisalPolicy) -> SnpDemands:
    assert made.snp is not None
    return made.snp


def test_a_policy_that_mixes_vendor_and_simulated_roots_does_not_load() -> None:
    mixed = [amd_root(Product.GENOA).to_json(), SIMULATED.to_json()]
    with pytest.raises(PolicyError, match="never both"):
        loaded(roots=mixed)
    with pytest.raises(PolicyError, match="never both"):
        policy(roots=(amd_root(Product.GENOA), SIMULATED))


def test_a_root_that_is_no_vendors_is_never_called_real() -> None:
    with pytest.raises(DocumentError, match="not the vendor's"):
        loaded(roots=[{**SIMULATED.to_json(), "kind": "real"}])
    with pytest.raises(DocumentError, match="not the vendor's"):
        PinnedRoot(
            kind=RootKind.REAL, anchor=Anchor.GENOA, fingerprint=amd_root(Product.MILAN).fingerprint
        )


def test_a_vendors_root_is_never_called_simulated() -> None:
    for product in Product:
        with pytest.raises(DocumentError, match="is a vendor's"):
            PinnedRoot(
                kind=RootKind.SIMULATED,
                anchor=Anchor.GENOA,
                fingerprint=amd_root(product).fingerprint,
            )


def test_a_policy_without_roots_products_or_measurements_does_not_load() -> None:
    for field in ("roots", "products", "measurements"):
        with pytest.raises((DocumentError, PolicyError)):
            loaded(**{field: []})


def test_a_product_with_a_root_and_without_floors_does_not_load() -> None:
    with pytest.raises(PolicyError, match="wanted the same"):
        policy(roots=(amd_root(Product.GENOA), amd_root(Product.TURIN)))
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
        ("guest", {}),
        ("debug", True),
    ],
)
def test_a_value_outside_of_the_schema_does_not_load(field: str, value: Any) -> None:
    with pytest.raises(EncodingError):
        loaded(**{field: value})


def test_no_field_of_a_policy_allows_debug_or_migration() -> None:
    names = {field.name for field in dataclasses.fields(demands(policy()).guest)}
    assert names.isdisjoint({"debug", "migrate_ma"})
    value = parse_json(policy().encode()[len(LABEL) :])
    assert isinstance(value, dict)
    for name in ("debug", "migrate_ma"):
        with pytest.raises(DocumentError, match="unknown field"):
            loaded(guest={**value["snp"]["guest"], name: "not demanded"})


def test_a_floor_for_a_part_that_a_product_does_not_have_does_not_load() -> None:
    with pytest.raises(PolicyError, match="Genoa has no fmc"):
        dataclasses.replace(GENOA_FLOOR, fmc=1)


FACILITY = FacilityDemands(endorsers=(bytes(32),), age_days_max=366, never=(bytes([1] * 32),))


def test_the_shipped_policies_pin_the_vendors_demand_a_gpu_and_refuse_milan() -> None:
    for shipped in (any_facility([MEASUREMENT]), production([MEASUREMENT], FACILITY)):
        assert shipped.kind is RootKind.REAL
        anchors = {Anchor.GENOA, Anchor.TURIN, Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM}
        assert set(shipped.roots) == {vendor_root(each) for each in anchors}
        assert demands(shipped).floor_of(Product.MILAN) is None
        assert demands(shipped).report_version_least == 3
        assert demands(shipped).vlek_csp_ids == ()
        assert demands(shipped).platform.alias_check_complete is Demand.SET
        assert shipped.gpu is not None
        assert FeatureMode.PPCIE not in shipped.gpu.modes


def test_the_recommended_policy_demands_a_facility_and_the_other_says_that_it_does_not() -> None:
    assert production([MEASUREMENT], FACILITY).facility == FACILITY
    assert any_facility([MEASUREMENT]).facility is None
    with pytest.raises(TypeError):
        production([MEASUREMENT])  # type: ignore[call-arg]


def test_tdx_is_allowed_where_an_image_of_it_is_good() -> None:
    register = bytes(48)
    image = TdxImage(mr_td=register, rtmr0=register, rtmr1=register, rtmr2=register)
    shipped = any_facility([MEASUREMENT], tdx_images=[image])
    assert shipped.platforms == (Platform.SEV_SNP, Platform.TDX)
    assert vendor_root(Anchor.INTEL_SGX) in shipped.roots
    assert any_facility([MEASUREMENT]).platforms == (Platform.SEV_SNP,)
    with pytest.raises(PolicyError, match="allows no image of TDX"):
        dataclasses.replace(shipped, tdx_images=())
    with pytest.raises(PolicyError, match="does not allow it"):
        dataclasses.replace(any_facility([MEASUREMENT]), tdx_images=(image,))


def test_the_simulated_policy_differs_from_shipped_ones_in_roots_and_products_alone() -> None:
    gpu_roots = [
        PinnedRoot(kind=RootKind.SIMULATED, anchor=anchor, fingerprint=bytes([number] * 32))
        for number, anchor in enumerate((Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM), start=1)
    ]
    simulated = simulated_policy(bytes(32), [MEASUREMENT], gpu_roots=gpu_roots)
    assert simulated.kind is RootKind.SIMULATED
    assert demands(simulated).products == (GENOA_FLOOR,)
    own = {"roots": simulated.roots, "products": demands(simulated).products}
    assert changed(any_facility([MEASUREMENT]), **own) == simulated
    without = changed(
        without_gpus(any_facility([MEASUREMENT])),
        roots=simulated.roots[:1],
        products=demands(simulated).products,
    )
    assert without == simulated_policy(bytes(32), [MEASUREMENT])


def test_a_root_of_gpus_without_a_demand_of_gpus_does_not_load_nor_the_other_way() -> None:
    root = PinnedRoot(
        kind=RootKind.SIMULATED, anchor=Anchor.NVIDIA_DEVICE, fingerprint=bytes([1] * 32)
    )
    with pytest.raises(PolicyError, match="wanted the same"):
        dataclasses.replace(policy(), roots=(*policy().roots, root))
    with pytest.raises(PolicyError, match="wanted the same"):
        dataclasses.replace(policy(), gpu=any_facility([MEASUREMENT]).gpu)


def test_a_simulated_policy_has_no_default_root() -> None:
    with pytest.raises(TypeError):
        simulated_policy(measurements=[MEASUREMENT])  # type: ignore[call-arg]
    several = simulated_policy(bytes(32), [MEASUREMENT], further_roots=[bytes([1] * 32)])
    assert [root.fingerprint[0] for root in several.roots] == [0, 1]


def test_a_changed_policy_has_another_name() -> None:
    assert policy(number=2).digest != policy().digest
    assert policy(measurements=(bytes(48),)).digest != policy().digest
