"""The parser of SNP reports: one shape, and everything else refused with words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.vendor import CHIP_ID, HOST_DATA, MEASUREMENT, REPORT_DATA, report
from trust.errors import EvidenceFormatError
from trust.evidence.claims import Product, Tcb
from trust.evidence.snp import Cpuid, parse_snp_report, parse_tcb, product_of_cpuid

# As FIPS 186-4 D.1.2.4 prints it, in decimal.
P384_ORDER = int(
    "394020061963944792122790401001436138050797392704654"
    "46667946905279627659399113263569398956308152294913554433653942643"
)


def edited(edits: dict[int, bytes]) -> bytes:
    made = bytearray(report())
    for offset, value in edits.items():
        made[offset : offset + len(value)] = value
    return bytes(made)


def test_every_field_is_read_from_its_own_place() -> None:
    parsed = parse_snp_report(report())
    assert parsed.version == 5
    assert parsed.report_data == REPORT_DATA
    assert parsed.host_data == HOST_DATA
    assert parsed.measurement == MEASUREMENT
    assert parsed.chip_id == CHIP_ID
    assert parsed.cpuid == Cpuid(family=0x19, model=0x11, stepping=1)
    assert str(parsed.current_version) == str(parsed.committed_version) == "1.55.49"
    assert (parsed.launch_mitigations, parsed.current_mitigations) == (11, 11)
    assert parsed.signed_bytes == report()[:0x2A0]
    assert len(parsed.signed_bytes) == 0x2A0


@pytest.mark.parametrize("length", [0, 1, 0x2A0, 1183, 1185, 1184 * 2, 1 << 20])
def test_another_length_is_refused_before_a_field_is_read(length: int) -> None:
    with pytest.raises(EvidenceFormatError, match=f"{length} bytes, wanted 1184"):
        parse_snp_report((report() * 1000)[:length])


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(EvidenceFormatError, match=f"version {version}, wanted one of"):
        parse_snp_report(edited({0: version.to_bytes(4, "little")}))


@pytest.mark.parametrize(
    "offset",
    [0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F, 0x330, 0x49F],
)
def test_a_reserved_byte_that_is_not_zero_is_refused(offset: int) -> None:
    with pytest.raises(EvidenceFormatError, match=r"reserved bytes .* are not all zero"):
        parse_snp_report(edited({offset: b"\x01"}))


@pytest.mark.parametrize(("version", "offset"), [(2, 0x188), (3, 0x1F8), (4, 0x1F8), (4, 0x207)])
def test_bytes_that_only_a_later_version_uses_are_reserved_before_it(
    version: int, offset: int
) -> None:
    older = {0: bytes([version]), 0x1F8: bytes(16)}
    if version == 2:
        older[0x188] = bytes(3)
    assert parse_snp_report(edited(older)).version == version
    with pytest.raises(EvidenceFormatError, match="reserved bytes"):
        parse_snp_report(edited({**older, offset: b"\x01"}))


def test_fields_that_a_version_does_not_carry_are_none_and_not_zero() -> None:
    second = parse_snp_report(edited({0: b"\x02", 0x188: bytes(3), 0x1F8: bytes(16)}))
    assert (second.cpuid, second.launch_mitigations, second.current_mitigations) == (None,) * 3
    third = parse_snp_report(edited({0: b"\x03", 0x1F8: bytes(16)}))
    assert third.cpuid is not None
    assert third.launch_mitigations is None


def test_reserved_flags_are_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="reserved flags"):
        parse_snp_report(edited({0x48: b"\x20"}))


@pytest.mark.parametrize("offset", [0x2A0, 0x2E8])
@pytest.mark.parametrize("value", [0, P384_ORDER, P384_ORDER + 1, 2**384 - 1, 2**384, 2**576 - 1])
def test_a_signature_number_outside_of_the_group_is_refused(offset: int, value: int) -> None:
    with pytest.raises(EvidenceFormatError, match="not in 1 to n-1"):
        parse_snp_report(edited({offset: value.to_bytes(72, "little")}))


def test_turin_counts_its_own_bytes_and_milan_would_misread_them() -> None:
    value = bytes((3, 1, 2, 4, 0, 0, 0, 71))
    turin = parse_tcb(value, Product.TURIN)
    assert turin == Tcb(fmc=3, boot_loader=1, tee=2, snp=4, microcode=71)
    for product in (Product.MILAN, Product.GENOA):
        with pytest.raises(EvidenceFormatError, match=f"{product.value} reserves"):
            parse_tcb(value, product)
    genoa = parse_tcb(bytes((10, 1, 0, 0, 0, 0, 27, 88)), Product.GENOA)
    assert genoa == Tcb(fmc=0, boot_loader=10, tee=1, snp=27, microcode=88)
    with pytest.raises(EvidenceFormatError, match="Turin reserves"):
        parse_tcb(bytes((10, 1, 0, 0, 0, 0, 27, 88)), Product.TURIN)


def test_a_tcb_is_at_least_another_only_in_every_component() -> None:
    floor = Tcb(fmc=0, boot_loader=10, tee=0, snp=27, microcode=88)
    assert floor.at_least(floor)
    newer_and_older = Tcb(fmc=0, boot_loader=11, tee=1, snp=28, microcode=87)
    assert not newer_and_older.at_least(floor)
    assert not floor.at_least(newer_and_older)


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x0F, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),
        (0x19, 0x21, None),
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x1A, 0x20, None),
        (0x1A, 0x50, None),
        (0x17, 0x31, None),
    ],
)
def test_a_processor_that_has_no_certificates_has_no_product(
    family: int, model: int, product: Product | None
) -> None:
    assert product_of_cpuid(Cpuid(family=family, model=model, stepping=0)) is product


@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_random_bytes_raise_our_error_and_no_other(data: bytes) -> None:
    with pytest.raises(EvidenceFormatError):
        parse_snp_report(data)


@given(st.dictionaries(st.integers(0, 1183), st.binary(min_size=1, max_size=1), max_size=8))
@settings(deadline=None)
def test_a_parsed_report_says_what_its_bytes_say(edits: dict[int, bytes]) -> None:
    data = edited(edits)
    try:
        parsed = parse_snp_report(data)
    except EvidenceFormatError:
        return
    assert parsed.raw == data
    assert parsed.measurement == data[0x90:0xC0]
    assert parsed.signature_r == int.from_bytes(data[0x2A0:0x2E8], "little")
