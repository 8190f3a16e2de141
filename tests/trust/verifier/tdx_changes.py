"""How a test makes a lie of the good case: by changing a part of it, and signing it again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.trust.verifier.tdx_vendor import (
    DAY,
    GUEST,
    NOW,
    Case,
    Endorsements,
    key,
)
from trust.simulated import intel_formats as formats
from trust.simulated.intel import PLATFORM
from trust.simulated.intel_formats import CertificateSpec, pck_extension

Mutation = Callable[[Case], Case]


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One scenario: a mutation of the good case, and the one check that refuses it."""

    name: str
    """A sentence in kebab case."""
    mutate: Mutation
    check: str


def guest(**changes: Any) -> Mutation:
    return lambda case: replace(case, guest=replace(case.guest, **changes))


def enclave(**changes: Any) -> Mutation:
    return lambda case: intel(case, enclave=replace(case.intel.enclave, **changes))


def demands(**changes: Any) -> Mutation:
    return lambda case: replace(case, demands=replace(case.demands, **changes))


def intel(case: Case, **changes: Any) -> Case:
    return replace(case, intel=replace(case.intel, **changes))


def both(*mutations: Mutation) -> Mutation:
    def mutate(case: Case) -> Case:
        for each in mutations:
            case = each(case)
        return case

    return mutate


def pck(**changes: Any) -> Mutation:
    return lambda case: intel(case, pck=replace(case.intel.pck, **changes))


def platform(**changes: Any) -> Mutation:
    """Another machine, whose PCK says so."""
    if "components" in changes:
        changes["cpu_svn"] = bytes(changes["components"])
    extension = pck_extension(replace(PLATFORM, **changes))
    return pck(extensions=(*formats.SIGNER_EXTENSIONS, extension))


def authority(**changes: Any) -> Mutation:
    def mutate(case: Case) -> Case:
        changed = replace(case.intel.authority, **changes)
        return intel(case, authority=changed, list_chain=(changed, case.intel.root))

    return mutate


def root(**changes: Any) -> Mutation:
    def mutate(case: Case) -> Case:
        old = case.intel
        changed = replace(old.root, **changes)
        return intel(
            case,
            root=changed,
            list_chain=(old.authority, changed),
            tcb_chain=(old.tcb_chain[0], changed),
            qe_chain=(old.qe_chain[0], changed),
        )

    return mutate


def signer(chain: str, **changes: Any) -> Mutation:
    """Another signer's certificate, before TCB info or the enclave's identity."""

    def mutate(case: Case) -> Case:
        first, above = getattr(case.intel, chain)
        return intel(case, **{chain: (replace(first, **changes), above)})

    return mutate


def listed(which: str, **changes: Any) -> Mutation:
    return lambda case: intel(case, **{which: replace(getattr(case.intel, which), **changes)})


def unlisted(which: str) -> Mutation:
    return lambda case: intel(case, **{which: None})


def said(document: str, edit: Callable[[dict[str, Any]], object]) -> Mutation:
    """TCB info or identity with other words, signed again."""

    def mutate(case: Case) -> Case:
        value = copy.deepcopy(getattr(case.intel, document))
        edit(value)
        return intel(case, **{document: value})

    return mutate


def words(document: str, **changes: Any) -> Mutation:
    return said(document, lambda value: value.update(changes))


def level(document: str, path: tuple[str | int, ...], **changes: Any) -> Mutation:
    def edit(value: Any) -> None:
        for step in path:
            value = value[step]
        value.update(changes)

    return said(document, edit)


def signed_at(offset: int, data: bytes) -> Mutation:
    """Other bytes in header or body, signed."""
    return lambda case: replace(case, edit_signed=lambda signed: put(signed, offset, data))


def put(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def quote_at(offset: int, data: bytes) -> Mutation:
    """Other bytes after the signed part, counted from its end; nothing is signed again."""

    def mutate(case: Case) -> Case:
        start = len(case.guest.encode(case.version))
        return replace(case, edit_quote=lambda quote: put(quote, start + offset, data))

    return mutate


def quoted(edit: Callable[[bytes], bytes]) -> Mutation:
    return lambda case: replace(case, edit_quote=edit)


def endorsed(edit: Callable[[dict[str, bytes]], object]) -> Mutation:
    def edited(endorsements: Endorsements) -> Endorsements:
        by_kind = dict(endorsements)
        edit(by_kind)
        return tuple(by_kind.items())

    return lambda case: replace(case, edit_endorsements=edited)


def flipped(offset: int) -> Mutation:
    """One bit of the quote, counted from the end of its signed part, is another."""

    def mutate(case: Case) -> Case:
        start = len(case.guest.encode(case.version)) + offset
        return replace(case, edit_quote=lambda q: put(q, start, bytes([q[start] ^ 1])))

    return mutate


# Offsets after the signed part: u32 length, signature 64, key 64, type u16, length u32, report.
SIGNATURE, KEY, CERTIFICATION, QE_REPORT = 4, 68, 132, 138
QE_SIGNATURE, AUTH_LENGTH, AUTH, CHAIN = 522, 586, 588, 620


def spec(subject: str, holder: str, above: CertificateSpec, **changes: Any) -> CertificateSpec:
    """A further certificate under `above`."""
    made = CertificateSpec(
        serial=77,
        subject=subject,
        issuer=above.subject,
        not_before=NOW - DAY,
        not_after=NOW + 300 * DAY,
        key=key(holder),
        signer=above.key,
        extensions=formats.SIGNER_EXTENSIONS,
    )
    return replace(made, **changes)


def measured(index: int, value: bytes) -> Mutation:
    changed = list(GUEST.rtmr)
    changed[index] = value
    return guest(rtmr=tuple(changed))
