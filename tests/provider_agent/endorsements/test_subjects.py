"""Of what hardware: what is read from evidence, kept, and refused before it reaches an address."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.services import Service, Services
from provider_agent.endorsements.shapes import (
    OCSP,
    RIM,
    TDX_KINDS,
    VCEK_KINDS,
    check_rim_id,
    lifetime,
)
from provider_agent.endorsements.subjects import (
    GpuSubject,
    SnpSubject,
    TdxSubject,
    Wanted,
    product_of,
    snp_subject,
    tdx_subject,
)
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements import rig as rigs
from trust.evidence.claims import Product


def refusal_of(call: Callable[[], object]) -> str | None:
    """The word of a refusal; None: it was none. Another error than ours goes through."""
    try:
        call()
    except EndorsementError as error:
        return error.code
    return None


def test_what_is_wanted_is_kept_as_it_was_said() -> None:
    wanted = rigs.everything()
    assert Wanted.from_bytes(wanted.to_bytes()) == wanted
    assert Wanted.from_bytes(Wanted().to_bytes()) == Wanted()


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_a_broken_note_of_what_is_wanted_is_refused_in_our_words(data: bytes) -> None:
    assert refusal_of(lambda: Wanted.from_bytes(data)) in {None, "bad-subject"}


@pytest.mark.parametrize(
    "text",
    ['{"snp": []}', '{"tdx": {}}', '{"gpu": {"rims": 5, "chains": []}}', "[]", "5", "null",
     '{"gpu": {"rims": ["../../crl"], "chains": []}}',
     '{"tdx": {"fmspc": "00", "authority": "x"}}'],
)  # fmt: skip
def test_a_note_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(EndorsementError, match="bad-subject"):
        Wanted.from_bytes(text.encode())


def test_a_masked_chip_has_no_key_to_ask_for() -> None:
    with pytest.raises(EndorsementError, match="snphost config reset"):
        SnpSubject(product=Product.GENOA, chip_id=bytes(64), tcb=bytes(8))


def test_a_turins_id_is_eight_bytes_and_zeros() -> None:
    with pytest.raises(EndorsementError, match="8 bytes, then zeros"):
        SnpSubject(product=Product.TURIN, chip_id=bytes(range(64)), tcb=bytes(8))


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [(0x19, 0x01, Product.MILAN), (0x19, 0x11, Product.GENOA), (0x19, 0xA0, Product.GENOA),
     (0x19, 0x61, None), (0x1A, 0x02, Product.TURIN), (0x1A, 0x24, None), (0x17, 0x31, None)],
)  # fmt: skip
def test_a_product_is_named_by_family_and_model(
    family: int, model: int, product: Product | None
) -> None:
    assert product_of(family, model) is product


@pytest.mark.parametrize("data", [b"", bytes(1184), b"\xff" * 1184, bytes(20_000)])
def test_what_is_no_report_or_quote_is_refused(data: bytes) -> None:
    for read in (snp_subject, tdx_subject):
        with pytest.raises(EndorsementError, match="bad-subject"):
            read(data)


def test_a_quote_whose_certificate_is_not_intels_is_refused() -> None:
    with pytest.raises(EndorsementError, match="the quote's certificate"):
        tdx_subject(bytes(700) + minted.intel_chain(minted.PLATFORM))


@pytest.mark.parametrize("text", ["", "..", "a/b", "a..b", "-x", "a b", "a?b", "x" * 200, "ä"])
def test_an_id_that_would_leave_its_place_in_an_address_or_folder_is_refused(text: str) -> None:
    with pytest.raises(EndorsementError, match="bad-subject"):
        check_rim_id(text)
    with pytest.raises(EndorsementError):
        GpuSubject(rims=(text,), chains=())


def test_a_chain_that_is_none_is_refused() -> None:
    for chain in (b"", b"junk", minted.pem(minted.certificate(minted.ROOT, minted.ROOT))):
        with pytest.raises(EndorsementError, match="no chain of a GPU"):
            GpuSubject(rims=(), chains=(chain,))
    with pytest.raises(EndorsementError):
        TdxSubject(fmspc=bytes(5), authority="platform")


@pytest.mark.parametrize(
    "url",
    ["http://kdsintf.amd.com", "ftp://kds", "https://", "https://a?b=c", "https://u:p@host",
     "https://host/", "file:///etc/passwd", "http://10.0.0.1", "http://127.0.0.1.example.org"],
)  # fmt: skip
def test_a_service_is_asked_by_https_or_on_loopback(url: str) -> None:
    with pytest.raises(EndorsementError, match="bad-address"):
        Service(name="x", base=url, pace_seconds=0.0)
    with pytest.raises(EndorsementError):
        Services().with_pccs(url)


def test_the_vendors_own_addresses_are_the_defaults() -> None:
    named = {f.name: getattr(Services(), f.name) for f in dataclasses.fields(Services)}
    bases = {each.base for each in named.values() if isinstance(each, Service)}
    assert all(each.startswith("https://") for each in bases)
    assert {each.rsplit(".", 2)[-2] for each in bases} == {"amd", "intel", "nvidia"}


@given(st.sampled_from((*VCEK_KINDS, *TDX_KINDS, RIM, OCSP)), st.binary(max_size=600))
def test_any_bytes_have_a_lifetime_or_are_refused_in_our_words(kind: str, data: bytes) -> None:
    assert refusal_of(lambda: lifetime(kind, data)) in {None, "wrong-content"}


@given(st.data())
def test_any_damage_to_an_object_is_survived(data: st.DataObject) -> None:
    intel = minted.intel()
    objects = {**intel, "gpu-rim": minted.rim()}
    kind = data.draw(st.sampled_from(sorted(objects)))
    content = bytearray(objects[kind])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        said = refusal_of(functools.partial(lifetime, kind, damaged))
        assert said in {None, "wrong-content"}
