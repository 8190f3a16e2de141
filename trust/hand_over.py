"""A hand-over: an adapter's shares to a party's own key (docs/spec/hand-over.md).

- The one way by which a share leaves a custodian without an enclave and without evidence. So it is
  for one kind alone: what a training enclave made as an *adapter*, one core of it, and never an
  input, a checkpoint, or the output share that other cores derive from.
- Every custodian answers for itself: its use policy names the receiver (``adapter_to``), and the
  owner's terms, those that the adapter was trained under, let it leave (``output.adapter_leaves``).
- A refusal names whose policy or terms, by number, and which line. Both are public documents.
- A party that asks itself needs nobody's leave: its shares stay with it.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from trust.artifacts import ArtifactKind, Core, Manifest
from trust.identity import Signed
from trust.messages import (
    HandOver,
    HandOverInfo,
    HandOverRequest,
    HandOverSecret,
    Receiver,
    SignedMessage,
)
from trust.release_checks import (
    CLOCK_SKEW_MILLISECONDS,
    accept_signed,
    check_standing,
    refusing,
    require,
    shown,
)
from trust.release_follow import Decision
from trust.release_grant import Opening, derived_openings, own_entries
from trust.release_state import HandedOver, Holdings, Memory, Seat, State
from trust.sealing import hpke_seal

HAND_OVER_MILLISECONDS_MAX: Final = 3_600_000  # a broker that was away finds it in its box
HAND_OVERS_MAX: Final = 64  # of one adapter to one receiver: each is an entry of the log


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOverAsked:
    """A signed `HandOverRequest`."""

    signed: bytes


def decide_hand_over(state: State, asked: HandOverAsked, now: int) -> Decision:
    """Give this custodian's shares of one adapter to a receiver's key.

    (1) This broker's log is the newest of its custodian's. (2) The receiver itself signed, and asks
    this custodian. (3) A request that was answered gets its stored answer again. (4) It is fresh,
    by this custodian's clock. (5) What it wants is an adapter, and (6) custody and consent hold for
    it. (7) There were not too many. (8) Shares of exactly this core, sealed to the receiver's key.

    Raises RefusedError. The entry is durable before the answer is sent.
    """
    check_standing(state)  # (1)
    request = accept_signed(HandOverRequest, asked.signed, "hand-over")
    said = request.document
    text = f"signed by {shown(request.signer)}, the receiver is {shown(said.to.identity)}"
    require(request.signer == said.to.identity, "hand-over-not-by-the-receiver", text)  # (2)
    text = f"asks custodian {shown(said.custodian)}"
    require(said.custodian == state.holdings.identity, "hand-over-other-custodian", text)
    if (handed := state.memory.handed.get(request.digest)) is not None:  # (3)
        return Decision(answer=handed.answer)
    text = f"signed at {said.at}, it is {now}; at most {HAND_OVER_MILLISECONDS_MAX} ms ago"
    fresh = -CLOCK_SKEW_MILLISECONDS <= now - said.at <= HAND_OVER_MILLISECONDS_MAX
    require(fresh, "hand-over-stale", text)  # (4)
    manifest = accept_signed(Manifest, said.manifest, "manifest")
    openings = accept_hand_over(state.holdings, state.memory, manifest, said.to.identity)  # (5, 6)
    before = sum(
        (each.artifact, each.receiver) == (manifest.digest, said.to.identity)
        for each in state.memory.handed.values()
    )
    text = f"{before} hand-overs of this adapter to {shown(said.to.identity)} already"
    require(before < HAND_OVERS_MAX, "hand-over-too-often", text)  # (7)
    answer = _seal(state.holdings, request.digest, said.to, openings)  # (8)
    return Decision(entries=(HandedOver(request=asked.signed, answer=answer),), answer=answer)


def accept_hand_over(
    holdings: Holdings, memory: Memory, manifest: Signed[Manifest], receiver: bytes
) -> tuple[Opening, ...]:
    """The own shares of an adapter, if this custodian consents to this receiver's having it.

    (1) It is an adapter, (2) that this custodian has custody of, (3) by a maker whose key stands in
    the own log for the core's very job and generation: a base relabelled as an adapter was made by
    nobody, (4) with just the custodians of that seat. (5) The newest use policy of each own entry
    names the receiver. (6) Where this custodian owns the job's model: the terms that the job was
    trained under let adapters leave. (5) and (6) do not bind a custodian that asks itself.

    Raises RefusedError.
    """
    core = manifest.document.core
    text = f"a {core.kind.value}; only an adapter is handed over"
    require(core.kind is ArtifactKind.ADAPTER, "hand-over-kind", text)  # (1)
    own = own_entries(holdings, core.custodians)
    require(bool(own), "not-a-custodian", "this adapter does not need this custodian")  # (2)
    seat = _check_maker(memory, manifest, core)  # (3, 4)
    if receiver != holdings.identity:
        for entry in own:
            _check_policy(holdings, entry.lineage, receiver)  # (5)
        if any(entry.lineage == seat.model for entry in own):
            _check_terms(holdings, seat.terms)  # (6)
    return derived_openings(holdings, core)


def _check_maker(memory: Memory, manifest: Signed[Manifest], core: Core) -> Seat:
    by_party = any(each.identity == manifest.signer for each in core.custodians)
    text = f"signed by its custodian {shown(manifest.signer)}, and not by an enclave"
    require(not by_party, "adapter-relabelled", text)
    origin = core.origin
    assert origin is not None  # a core of kind adapter has one (trust/artifacts.py)
    seat = memory.made_by(origin.job, origin.generation, manifest.signer)
    text = f"no enclave of generation {origin.generation} with the key {shown(manifest.signer)}"
    require(seat is not None, "adapter-unknown-maker", text)
    assert seat is not None
    text = "its custodians are not those of the job that made it"
    require(core.custodians == seat.custodians, "adapter-other-custodians", text)
    return seat


def _check_policy(holdings: Holdings, lineage: bytes, receiver: bytes) -> None:
    whose = f"custodian {shown(holdings.identity)}"
    policy = holdings.use_policy(lineage)
    text = f"{whose} has no use policy for lineage {shown(lineage)}: adapter_to names nobody"
    require(policy is not None, "use-policy-missing", text)
    assert policy is not None
    text = f"use policy {policy.number} of {whose}: adapter_to does not name {shown(receiver)}"
    require(receiver in policy.adapter_to, "adapter-to", text)


def _check_terms(holdings: Holdings, name: bytes) -> None:
    whose = f"owner {shown(holdings.identity)}"
    terms = holdings.terms.get(name)
    text = f"terms {shown(name)} of {whose}, trained under: not in this home"
    require(terms is not None, "terms-not-registered", text)
    assert terms is not None
    said = terms.document
    text = f"terms {said.number} of {whose}, trained under: output.adapter_leaves is false"
    require(said.output.adapter_leaves, "adapter-leaves", text)


def _seal(holdings: Holdings, request: bytes, to: Receiver, openings: tuple[Opening, ...]) -> bytes:
    info = HandOverInfo(
        custodian=holdings.identity,
        request=request,
        to=to,
        scopes=tuple(each.scope for each in openings),
    ).encode()
    secret = HandOverSecret(shares=tuple(each.share for each in openings)).encode()
    with refusing("hand-over-key"):
        sealed = hpke_seal(secret, to.hpke_key, info=info)
    signed = holdings.key.sign(HandOver(info=info, sealed=sealed))
    return SignedMessage(signed=signed.encode()).encode()
