"""Consents: which adapters, made from what one has custody of, may leave enclaves, and to whom.

- An adapter leaves if every custodian's use policy names its receiver (docs/spec/hand-over.md). So
  a consent is a line of one's own use policy, and giving it is signing the next one.
- What others say stands in the use policies that they published: their signed word.
- What was handed over can't be taken back: a refusal is about the next time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from client.home import Home
from client.keystore import Keystore
from client.owner import next_number, sign_use_policy
from trust.artifacts import Manifest
from trust.errors import BlindhostError, RefusedError
from trust.identity import Signed
from trust.jobs import UsePolicy
from trust.release_state import Holdings, Memory


class PoliciesPort(Protocol):
    """The market, as a place of use policies: `client.market_api.MarketApi`."""

    async def get_use_policy(self, custodian: bytes, lineage: bytes) -> Signed[UsePolicy]:
        """A custodian's newest use policy of a lineage, verified."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """One adapter, and whether it may go to the buyer of the job that made it."""

    adapter: bytes
    """Artifact id."""
    job: bytes
    generation: int
    to: bytes
    """The buyer."""
    others: tuple[tuple[bytes, bytes], ...]
    """Identity and lineage of each custodian entry of another party."""
    mine: bool
    """One's own policies name the buyer, for every own entry."""
    handed: bool
    """It has left already, by this party's shares."""

    @property
    def id(self) -> str:
        """Adapter and receiver."""
        return f"{self.adapter.hex()}-{self.to.hex()}"


def consents(holdings: Holdings, memory: Memory) -> tuple[Consent, ...]:
    """Every adapter of the own log that has its maker's origin, newest last."""
    found = []
    for artifact, manifest in memory.outputs.items():
        origin = manifest.document.core.origin
        job = None if origin is None else memory.jobs.get(origin.job)
        if origin is None or job is None:
            continue
        entries = manifest.document.core.custodians
        own = [each for each in entries if each.identity == holdings.identity]
        policies = [holdings.use_policy(each.lineage) for each in own]
        found.append(
            Consent(
                adapter=artifact,
                job=origin.job,
                generation=origin.generation,
                to=job.buyer,
                others=tuple(
                    (each.identity, each.lineage)
                    for each in entries
                    if each.identity != holdings.identity
                ),
                mine=all(p is not None and job.buyer in p.adapter_to for p in policies),
                handed=any(each.artifact == artifact for each in memory.handed.values()),
            )
        )
    return tuple(found)


async def others_say(port: PoliciesPort, consent: Consent) -> tuple[tuple[bytes, str], ...]:
    """What the other custodians' published policies say: ``yes``, ``no``, or why nothing."""
    found = []
    for identity, lineage in consent.others:
        try:
            policy = await port.get_use_policy(identity, lineage)
        except RefusedError:
            said = "not answered: no use policy of it is published"
        else:
            said = "yes" if consent.to in policy.document.adapter_to else "no"
        found.append((identity, said))
    return tuple(found)


def answer(
    home: Home, keys: Keystore, consent: Consent, manifest: Signed[Manifest], *, yes: bool
) -> tuple[Signed[UsePolicy], ...]:
    """Sign the next use policy of each own entry with or without the receiver.

    Returns those that were signed, to be published; nothing where all say so already. One's own
    broker decides by them from now on. Raises RefusedError, HomeError.
    """
    signed = []
    own = [e for e in manifest.document.core.custodians if e.identity == keys.party.identity]
    for lineage in dict.fromkeys(each.lineage for each in own):
        holdings = home.holdings(keys)
        policy = holdings.use_policy(lineage)
        if policy is None:
            raise RefusedError("use-policy-missing", "this home has no use policy of that lineage")
        if (consent.to in policy.adapter_to) is yes:
            continue
        rest = [each for each in policy.adapter_to if each != consent.to]
        receivers = sorted([*rest, consent.to]) if yes else rest
        own_policies = home.load(UsePolicy, keys.party.identity).values()
        following = dataclasses.replace(
            policy,
            number=next_number(own_policies, policy.lineages),
            adapter_to=tuple(receivers),
        )
        appraisal = holdings.appraisal_policies.get(policy.appraisal_policy)
        if appraisal is None:
            raise RefusedError("appraisal-policy-missing", "the use policy's is not in this home")
        signed.append(sign_use_policy(home, keys, following, appraisal))
    return tuple(signed)


def in_sentences(consent: Consent) -> tuple[str, ...]:
    """What opens, to whom, for how long, and what can't be taken back."""
    to, adapter = consent.to.hex()[:16], consent.adapter.hex()[:16]
    sentences = [
        f"Adapter {adapter}, made by job {consent.job.hex()[:16]}, opens in plain to {to}.",
        "It opens once every custodian's use policy names that party; yours is one of them.",
        "It stays allowed until your next use policy takes the name away.",
        "What was handed over can't be taken back: whoever has the adapter keeps it.",
    ]
    if consent.handed:
        sentences.append("Your shares of it have left already.")
    return tuple(sentences)


def find(found: Sequence[Consent], name: str) -> Consent:
    """The consent with this id. Raises BlindhostError."""
    for each in found:
        if each.id == name:
            return each
    raise BlindhostError(f"no consent {name[:32]} here")
