"""Reference manifests: what is signed is what is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.trust.verifier.gpu_vendor import HOPPER, driver_rim, vbios_rim
from trust.errors import BlindhostError, EvidenceFormatError, SizeLimitError
from trust.simulated.nvidia_models import DRIVER_INDICES, golden
from trust.simulated.rim import tree, write
from trust.verifier.rims import Rim, parse_rim
from trust.verifier.x509_ec import chain_fault
from trust.verifier.xml_signature import XML_BYTES_MAX, parse_signed_xml


@functools.cache
def good() -> bytes:
    return driver_rim().file()


@functools.cache
def bare() -> Rim:
    return parse_rim(good())


def holds(data: bytes) -> bool:
    """It parses, is signed, and would be used in the good one's place."""
    try:
        rim = parse_rim(data)
    except BlindhostError:
        return False
    return rim.signature_fault() is None and chain_fault(rim.chain) is None


def test_a_manifest_says_what_nvidia_signed() -> None:
    rim = bare()
    assert (rim.product, rim.edition, rim.version) == ("GH100", "GPU", HOPPER.driver)
    assert tuple(rim.golden) == DRIVER_INDICES
    assert all(rim.golden[index] == golden(HOPPER, index) for index in rim.golden)
    assert holds(good())
    assert len(rim.chain) == 4


def test_an_inactive_value_is_no_good_value() -> None:
    assert 63 not in bare().golden
    assert b'index="63"' in good()


def test_what_is_digested_is_the_document_without_its_signature() -> None:
    content = write(driver_rim().root, canonical=True).encode()
    assert etree.tostring(bare().xml.tree, method="c14n") == content


def test_what_is_read_is_the_canonical_form_and_not_the_file() -> None:
    """The file's own tree still has the signature; the one that is read has none."""
    tags = {etree.QName(each).localname for each in bare().xml.tree.iter()}
    assert tags == {"SoftwareIdentity", "Entity", "Meta", "Payload", "Resource"}


def test_quotes_and_the_order_of_attributes_are_not_signed_and_change_nothing() -> None:
    other = good().replace(b'corpus="false" name="GH100"', b"name='GH100'   corpus='false'")
    assert other != good()
    assert holds(other)
    assert parse_rim(other).golden == bare().golden


@pytest.mark.parametrize(
    "old",
    [b'active="True"', b'index="7"', b'colloquialVersion="580', b'product="GH100"', b"Hash0=",
     b"ns0:Resource ", b"alternatives=", b"<ns0:Entity"],
)  # fmt: skip
def test_no_part_of_the_signed_tree_can_be_changed(old: bytes) -> None:
    assert old in good()
    for new in (old.swapcase(), old.replace(b"0", b"1"), b"x" + old):
        other = good().replace(old, new, 1)
        assert other == good() or not holds(other)


def test_a_declaration_of_another_encoding_changes_no_byte() -> None:
    """The parser is told the alphabet; a declaration can't tell it another."""
    assert holds(b'<?xml version="1.0" encoding="UTF-8"?>\n' + good())
    declared = b'<?xml version="1.0" encoding="UTF-7"?>\n' + good()
    assert parse_rim(declared).golden == bare().golden
    assert not holds(good().decode().encode("utf-7").replace(b"<", b"+ADw-"))


def test_a_manifest_from_another_driver_can_not_lend_its_signature() -> None:
    theirs = vbios_rim().file()
    cut = theirs[theirs.index(b"<ds:Signature ") : theirs.index(b"</SoftwareIdentity>")]
    start, end = good().index(b"<ds:Signature "), good().index(b"</SoftwareIdentity>")
    assert not holds(good()[:start] + cut + good()[end:])


def test_the_signed_info_of_another_digest_does_not_hold() -> None:
    """The digest is compared, and so is the signature: either alone is nothing."""
    other = bytearray(good())
    at = other.index(b"<ds:DigestValue>") + len(b"<ds:DigestValue>")
    other[at] = ord("A") if other[at] != ord("A") else ord("B")
    rim = parse_rim(bytes(other))
    assert rim.signature_fault() == "content that its digest is not of"
    kept = dataclasses.replace(rim, xml=dataclasses.replace(rim.xml, stated_digest=rim.xml.digest))
    assert kept.signature_fault() == "a signature that does not verify"


def test_size_is_looked_at_before_the_parser_sees_a_byte() -> None:
    with pytest.raises(SizeLimitError, match="at most 524288"):
        parse_rim(b"<" * (XML_BYTES_MAX + 1))


def test_no_entity_is_resolved_and_no_file_read() -> None:
    with pytest.raises(EvidenceFormatError):
        parse_signed_xml(b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x>&a;</x>')
    with pytest.raises(EvidenceFormatError, match="does not parse"):
        parse_signed_xml(b"<x>&a;</x>")


@pytest.mark.parametrize("count", [0, 33])
def test_a_reference_value_has_one_to_thirty_two_digests(count: int) -> None:
    rim = driver_rim()
    first, *others = rim.root.children[2].children
    kept = tuple(e for e in first.attributes if not e[0].startswith("ns2:"))
    hashes = tuple((f"ns2:Hash{n}", "00" * 48) for n in range(count))
    stated = tuple((k, str(count) if k == "alternatives" else v) for k, v in kept)
    resource = dataclasses.replace(first, attributes=(*stated, *hashes))
    payload = dataclasses.replace(rim.root.children[2], children=(resource, *others))
    root = dataclasses.replace(rim.root, children=(*rim.root.children[:2], payload))
    with pytest.raises(EvidenceFormatError, match="not of the form"):
        parse_rim(dataclasses.replace(rim, root=root).file())


def test_both_manifests_of_a_gpu_are_of_the_form_that_nvidia_writes() -> None:
    assert tree is not None
    assert holds(vbios_rim().file())


def test_a_namespace_that_has_no_canonical_form_is_no_error_of_the_librarys() -> None:
    relative = good().replace(b'xmlns:ns2="http://www', b'xmlns:ns2="www', 1)
    assert relative != good()
    with pytest.raises(EvidenceFormatError, match="no canonical form"):
        parse_rim(relative)


@given(st.binary(max_size=200))
def test_any_bytes_give_our_own_errors_only(data: bytes) -> None:
    with pytest.raises(BlindhostError):
        parse_rim(data)


_NAMES = ("SoftwareIdentity", "Entity", "Meta", "Payload", "Resource", "ds:Signature", "x")


@given(st.recursive(st.sampled_from(_NAMES), lambda inner: st.lists(inner, max_size=3)))
def test_any_tree_gives_our_own_errors_only(value: object) -> None:
    def text(node: object) -> str:
        if isinstance(node, list):
            return "<Payload>" + "".join(map(text, node)) + "</Payload>"
        return f'<{node} xmlns:ds="http://www.w3.org/2000/09/xmldsig#"/>'

    with pytest.raises(BlindhostError):
        parse_rim(text(value).encode())


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=150)
def test_a_changed_byte_gives_other_good_values_to_nobody(place: int, change: int) -> None:
    data = bytearray(good())
    data[place % len(data)] ^= change
    if holds(bytes(data)):
        rim = parse_rim(bytes(data))
        assert rim.golden == bare().golden
        assert (rim.product, rim.version) == (bare().product, bare().version)
