"""What fuzzing, and reading for it, found: each as a small input that showed it."""

from __future__ import annotations

import time

import pytest

from tests.fuzz import material
from trust.errors import EvidenceFormatError
from trust.verifier.rims import parse_rim

SECONDS_MAX = 5  # on a busy machine; it takes a hundredth of that


def with_meta(*, before: bytes = b"", inside: bytes = b"") -> bytes:
    base = "gpu-hopper"
    good = next(e for e in material.endorsements_of(base, "gpu-rim") if b"<ns0:Meta" in e)
    return good.replace(b"<ns0:Meta", before + b"<ns0:Meta" + inside, 1)


@pytest.mark.parametrize("inside", [b' xmlns:a="relative"', b' xmlns:a="relative" a:b="c"'])
def test_a_manifest_without_a_canonical_form_is_refused_in_our_words(inside: bytes) -> None:
    """lxml raised C14NError for a namespace that is no absolute URI."""
    with pytest.raises(EvidenceFormatError, match="no canonical form"):
        parse_rim(with_meta(inside=inside))


def test_a_manifest_of_many_namespaces_and_elements_is_refused_at_once() -> None:
    """Canonical form took 26 seconds for these 430 KiB: elements times namespaces in scope."""
    nested = b"".join(b'<a xmlns:b%d="http://b%d">' % (each, each) for each in range(200))
    huge = with_meta(before=nested + b"<c/>" * 80_000 + b"</a>" * 200)
    assert len(huge) < 512 * 1024
    began = time.monotonic()
    with pytest.raises(EvidenceFormatError, match="at most"):
        parse_rim(huge)
    assert time.monotonic() - began < SECONDS_MAX


@pytest.mark.parametrize(
    "part",
    [
        {"inside": b"".join(b' xmlns:a%d="http://a%d"' % (e, e) for e in range(17))},
        {"before": b"<c/>" * 4096},
        {"inside": b"".join(b' a%d="b"' % each for each in range(8192))},
    ],
    ids=["namespaces", "elements", "attributes"],
)
def test_a_manifest_of_more_markup_than_any_real_one_is_refused(part: dict[str, bytes]) -> None:
    with pytest.raises(EvidenceFormatError, match="at most"):
        parse_rim(with_meta(**part))
