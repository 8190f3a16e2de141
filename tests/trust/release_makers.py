"""An image, its rebuilders, its log and two witnesses, with whatever a test wants wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from client.image_log import Tree
from trust.identity import PartyKey
from trust.image_acceptance import AcceptedRelease, accept_release
from trust.image_release import (
    DAY_MILLISECONDS,
    ImageRelease,
    Link,
    RebuildSignature,
    ReleaseBundle,
    ReleaseDemands,
    ReleaseMemory,
)
from trust.merkle import leaf_hash
from trust.transparency import COSIGNATURE, ED25519, Checkpoint, Note, NoteSigner, TlogProof
from trust.verifier.reference import ReferenceValues
from trust.verifier.tdx_policy import TdxImage

NOW = 1_795_500_000_000
DAY = DAY_MILLISECONDS
NAME = "blindhost-runtime"
REBUILDERS = [PartyKey.from_bytes(bytes([n]) * 32) for n in (1, 2, 3)]
STRANGER = PartyKey.from_bytes(bytes([9]) * 32)
MARKET = PartyKey.from_bytes(bytes([10]) * 32)
CUSTODIAN = PartyKey.from_bytes(bytes([11]) * 32)
LOG = NoteSigner("log.example/images", ED25519, bytes([20]) * 32)
WITNESSES = [NoteSigner(f"w{n}.example", COSIGNATURE, bytes([20 + n]) * 32) for n in (1, 2, 3)]


def measurement(text: str) -> bytes:
    return text.encode().ljust(48, b".")


def registers(text: str) -> TdxImage:
    return TdxImage(
        mr_td=measurement(f"mrtd {text}"),
        rtmr0=measurement(f"rtmr0 {text}"),
        rtmr1=measurement(f"rtmr1 {text}"),
        rtmr2=measurement(f"rtmr2 {text}"),
    )


def release(number: int = 1, **changes: Any) -> ImageRelease:
    made = ImageRelease(
        version=1,
        name=NAME,
        number=number,
        released_at=NOW - 20 * DAY + number * DAY,
        image=bytes([number]) * 32,
        values=ReferenceValues(
            snp=(measurement(f"snp {number}"),),
            tdx=(registers(str(number)),),
            simulated=(measurement(f"simulated {number}"),),
        ),
        notes=bytes(32),
        emergency=False,
    )
    return dataclasses.replace(made, **changes)


def demands(**changes: Any) -> ReleaseDemands:
    made = ReleaseDemands(
        name=NAME,
        rebuilders=tuple(each.identity for each in REBUILDERS),
        rebuilders_least=2,
        log=str(LOG.key),
        witnesses=tuple(str(each.key) for each in WITNESSES),
        witnesses_least=2,
        days_least=7,
        age_days_max=180,
        previous_allowed=True,
        never=(MARKET.identity,),
    )
    return dataclasses.replace(made, **changes)


@dataclass
class World:
    """A log that holds these entries, and how its newest release travels."""

    entries: list[bytes]
    index: int = -1
    signers: list[PartyKey] = field(default_factory=lambda: REBUILDERS[:2])
    covering: int | None = None
    """Size of the checkpoint that covers the release; None: the whole log."""
    days: tuple[float, ...] = (8, 8)
    """How long ago each witness cosigned the covering checkpoint."""
    head_days: tuple[float, ...] = (0, 0)
    witnesses: list[NoteSigner] = field(default_factory=lambda: list(WITNESSES))
    log: NoteSigner = LOG
    since: tuple[int, ...] = ()

    def checkpoint(self, size: int) -> Checkpoint:
        tree = Tree([leaf_hash(each) for each in self.entries])
        return Checkpoint(origin=self.log.key.name, size=size, root=tree.root(size))

    def note(self, size: int, days: tuple[float, ...]) -> Note:
        made = self.checkpoint(size)
        lines = [self.log.sign(made)]
        for witness, ago in zip(self.witnesses, days, strict=False):
            lines.append(witness.cosign(made, int(NOW - ago * DAY) // 1000))
        return Note(text=made.text, signatures=tuple(lines))

    def bundle(self, **changes: Any) -> ReleaseBundle:
        size = len(self.entries)
        index = self.index % size
        covering = size if self.covering is None else self.covering
        tree = Tree([leaf_hash(each) for each in self.entries])
        entry = self.entries[index]
        document = ImageRelease.parse(entry)
        signed = [each.sign(document) for each in self.signers]
        proof = TlogProof(
            index=index,
            path=tree.inclusion(index, covering),
            checkpoint=self.note(covering, self.days),
        )
        made = ReleaseBundle(
            release=entry,
            signatures=tuple(
                RebuildSignature(signer=each.signer, signature=each.signature) for each in signed
            ),
            proof=proof.encode(),
            head=self.note(size, self.head_days).encode(),
            links=tuple(
                Link(size=each, path=tree.consistency(each, size))
                for each in sorted({covering, *self.since})
            ),
        )
        return dataclasses.replace(made, **changes)


def world(*releases: ImageRelease, **changes: Any) -> World:
    return World([each.encode() for each in releases or (release(),)], **changes)


def accept(
    bundle: ReleaseBundle | bytes,
    memory: ReleaseMemory | None = None,
    now: int = NOW,
    wanted: ReleaseDemands | None = None,
    **rest: Any,
) -> AcceptedRelease:
    data = bundle if isinstance(bundle, bytes) else bundle.encode()
    chosen = wanted or demands()
    return accept_release(data, chosen, memory, now, custodian=CUSTODIAN.identity, **rest)
