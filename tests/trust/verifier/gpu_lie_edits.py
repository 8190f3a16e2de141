"""How to tell lies about NVIDIA GPUs: mutations of the good case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.trust.verifier.gpu_vendor import (
    BLACKWELL,
    HOPPER,
    Case,
    Gpu,
    Ocsp,
    Rim,
    changed,
    device_links,
    driver_rim,
    made,
    rim_links,
    vbios_rim,
)
from trust.encoding import digest
from trust.simulated.rim import Element, Resource, _resource

Mutation = Callable[[Case], Case]
GOOD = Case()
BLACKWELL_GPU = Gpu(model=BLACKWELL, serial=b"GPUB0001")
BLACKWELL_CASE = Case(gpus=(BLACKWELL_GPU,), rims=(driver_rim(BLACKWELL), vbios_rim(BLACKWELL)))
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One scenario: a mutation of the good case, and the one check that refuses it."""

    name: str
    """Short dashed words."""
    tells: str
    """One sentence: what the lie is."""
    mutate: Mutation
    check: str
    malformed: bool = False
    """It is no evidence: there are no lines, and `check` is the one that its shape is part of."""
    also: tuple[str, ...] = ()
    """Checks that could not be made without the one that refuses: *not checked*."""


Lies = list[Lie]


def lie(lies: Lies, check: str, name: str, tells: str, mutate: Mutation, *also: str) -> None:
    lies.append(Lie(name=name, tells=tells, mutate=mutate, check=check, also=also))


def no_evidence(lies: Lies, check: str, name: str, tells: str, mutate: Mutation) -> None:
    lies.append(Lie(name=name, tells=tells, mutate=mutate, check=check, malformed=True))


# --- how to change the good case -----------------------------------------------------------------


def gpu(**changes: Any) -> Mutation:
    """The only GPU is another."""
    return lambda case: replace(case, gpus=(replace(case.gpus[0], **changes),))


def body(edit: Callable[[bytes], bytes]) -> Mutation:
    """It signs another response."""
    return gpu(body_edit=edit)


def links(place: int, **changes: Any) -> Mutation:
    """One certificate of its chain is another; those below it are signed anew."""
    return gpu(links=changed(device_links(HOPPER, b"GPU00001"), place, **changes))


def rooted(place: int, **changes: Any) -> Mutation:
    """The same, of the root, which is pinned as it is then."""
    chain = changed(device_links(HOPPER, b"GPU00001"), place, **changes)
    return lambda case: replace(gpu(links=chain)(case), device_root=digest(made(chain)[-1]))


def ocsp(place: int, **changes: Any) -> Mutation:
    """The response on one certificate: 0 boot ROM, 1 provisioner, 2 model, then the RIM's."""

    def edit(responses: list[Ocsp]) -> list[Ocsp]:
        return [replace(e, **changes) if i == place else e for i, e in enumerate(responses)]

    return lambda case: replace(case, ocsp_edit=edit)


def without_ocsp(place: int) -> Mutation:
    return lambda case: replace(
        case, ocsp_edit=lambda found: [e for i, e in enumerate(found) if i != place]
    )


def rims(edit: Callable[[Rim], Rim], which: int = 0) -> Mutation:
    """One manifest is another: 0 the driver's, 1 the VBIOS's."""
    return lambda case: replace(
        case, rims=tuple(edit(e) if i == which else e for i, e in enumerate(case.rims))
    )


def rim(which: int = 0, **changes: Any) -> Mutation:
    return rims(lambda each: replace(each, **changes), which)


def xml(old: bytes, new: bytes) -> Mutation:
    """The driver's manifest is changed after it was signed."""

    def edit(data: bytes) -> bytes:
        assert data.count(old) >= 1, old
        return data.replace(old, new, 1)

    return rim(xml_edit=edit)


def elements(edit: Callable[[Element], Element], which: int = 0) -> Mutation:
    """NVIDIA signs a manifest of another form."""
    return rims(lambda each: replace(each, root=edit(each.root)), which)


def meta(attribute: str, value: str, which: int = 0) -> Mutation:
    def edit(root: Element) -> Element:
        entity, meta, payload = root.children
        attributes = tuple((k, value if k == attribute else v) for k, v in meta.attributes)
        return replace(root, children=(entity, replace(meta, attributes=attributes), payload))

    return elements(edit, which)


def payload(edit: Callable[[tuple[Element, ...]], tuple[Element, ...]], which: int = 0) -> Mutation:
    def change(root: Element) -> Element:
        entity, meta, held = root.children
        return replace(root, children=(entity, meta, replace(held, children=edit(held.children))))

    return elements(change, which)


def attribute(element: Element, key: str, value: str) -> Element:
    return replace(
        element, attributes=tuple((k, value if k == key else v) for k, v in element.attributes)
    )


def resources(*further: Resource, which: int = 0) -> Mutation:
    """The manifest has further reference values."""

    def edit(case: Case) -> Case:
        other = tuple(_resource(each) for each in further)
        return payload(lambda held: (*held, *other), which)(case)

    return edit


def rim_chain(place: int, *, pin: bool = False, **changes: Any) -> Mutation:
    """One certificate of both manifests' chains is another."""
    chain = changed(rim_links(HOPPER), place, **changes)

    def edit(case: Case) -> Case:
        made_anew = tuple(replace(each, links=chain) for each in case.rims)
        root = digest(made(chain)[-1]) if pin else case.rim_root
        return replace(case, rims=made_anew, rim_root=root)

    return edit


def demands(**changes: Any) -> Mutation:
    return lambda case: replace(case, demands=dataclasses.replace(case.demands, **changes))


def on_blackwell(*edits: Mutation) -> Mutation:
    def edit(_case: Case) -> Case:
        case = BLACKWELL_CASE
        for each in edits:
            case = each(case)
        return case

    return edit


def then(*edits: Mutation) -> Mutation:
    def edit(case: Case) -> Case:
        for each in edits:
            case = each(case)
        return case

    return edit


def at(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Other bytes at a place of the response."""
    return lambda data: data[:offset] + value + data[offset + len(value) :]


BLOCK = 55  # bytes of a measurement block: 7 and 48
RECORD = 8  # where the blocks begin in a response
OPAQUE = RECORD + 64 * BLOCK + 32  # where the length of the opaque fields stands


def opaque_edit(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Other opaque fields, with their length."""

    def change(data: bytes) -> bytes:
        fields = edit(data[OPAQUE + 2 :])
        return data[:OPAQUE] + len(fields).to_bytes(2, "little") + fields

    return change


def with_block_again(data: bytes, *, number: int, value: bytes) -> bytes:
    """The response with one more block of that number, of which its count says nothing."""
    start, end = RECORD + (number - 1) * BLOCK, RECORD + 64 * BLOCK
    record = data[RECORD:end] + data[start : start + 7] + value
    return data[:5] + len(record).to_bytes(3, "little") + record + data[end:]


def without_block(data: bytes, *, number: int, count: int) -> bytes:
    """The response without a block, which says that it has `count`."""
    start = RECORD + (number - 1) * BLOCK
    record = data[RECORD:start] + data[start + BLOCK : RECORD + 64 * BLOCK]
    head = data[:4] + bytes((count,)) + len(record).to_bytes(3, "little")
    return head + record + data[RECORD + 64 * BLOCK :]


def several(*gpus: Gpu, base: Case = GOOD) -> Mutation:
    return lambda _case: replace(base, gpus=gpus)


MPT = {36: b"\x01\x00"}
