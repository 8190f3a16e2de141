"""The documents that an enclave makes about itself: statements, requests, follow-ups.

Each is made from the brief and the enclave's two keys; whether and when one is sent, the session
decides. The other direction too: what a grant must answer, and an acknowledgement must say.
"""

from __future__ import annotations

from collections.abc import Iterable

from enclave_runtime.briefing import Brief
from enclave_runtime.grants import Asked, OpenGrant, derived_scopes, open_grant, seat_scopes
from enclave_runtime.states import Asking, Verifier
from trust.artifacts import Core, Custodian, Manifest
from trust.encoding import Document, digest
from trust.errors import SessionError
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import VERSION
from trust.messages import (
    Account,
    Acknowledgement,
    Challenge,
    Endorsement,
    EvidenceBundle,
    FollowUp,
    FollowUpKind,
    Grant,
    Hello,
    LogHead,
    MeterRequest,
    Purpose,
    ReleaseRequest,
    Scope,
    SignedMessage,
    Statement,
)
from trust.sealing import HpkePrivateKey


class Papers:
    """What one enclave says of itself, and takes for an answer."""

    def __init__(self, brief: Brief, *, hpke_key: HpkePrivateKey, signing_key: PartyKey) -> None:
        self._brief, self._launch = brief, brief.launch
        self._hpke, self._signing = hpke_key, signing_key

    def signed(self, document: Document) -> bytes:
        """A document under the attested key, as a message."""
        return SignedMessage(signed=self._signing.sign(document).encode()).encode()

    # --- opening ---------------------------------------------------------------------------------

    def hello(self, v: Verifier) -> bytes:
        """A wish to be asked."""
        return Hello(
            version=VERSION, purpose=v.purpose, verifier=v.identity, lease=self._launch.lease
        ).encode()

    def statement(self, challenge: Challenge) -> Statement:
        """What the hardware is to sign for whoever made this challenge."""
        launch = self._launch
        return Statement(
            version=VERSION,
            purpose=challenge.purpose,
            verifier=challenge.verifier,
            nonce=challenge.nonce,
            hpke_key=self._hpke.public,
            signing_key=self._signing.identity,
            job=launch.job,
            lease=launch.lease,
            generation=launch.generation,
            rank=launch.rank,
            ranks=launch.ranks,
            launch=launch.digest,
            gpu_evidence=None,
        )

    def evidence(
        self,
        statement: Statement,
        *,
        platform: str,
        report: bytes,
        gpu: bytes | None = None,
        offered: Iterable[tuple[str, bytes]] = (),
    ) -> bytes:
        """The hardware's report over a statement, with what is needed to check it.

        `gpu` is what the statement's digest of GPU evidence is of; None: it has none. `offered` are
        (kind, bytes) of endorsements that came with the report: taken of kinds that the
        briefing lacks, if it brings no key of the CPU's, since a verifier refuses two answers.
        """
        if statement.gpu_evidence != (None if gpu is None else digest(gpu)):
            raise SessionError("GPU evidence that the statement does not name")
        own = self._brief.endorsements
        kinds = {each.kind for each in own}
        more = () if kinds & {"vcek", "vlek"} else offered
        return EvidenceBundle(
            statement=statement.encode(),
            launch=self._launch.encode(),
            platform=platform,
            report=report,
            gpu=gpu,
            endorsements=(
                *own,
                *(Endorsement(kind=k, content=c) for k, c in more if k not in kinds),
            ),
        ).encode()

    def request(self, purpose: Purpose, evidence: bytes) -> bytes:
        """Evidence, and for a custodian the documents to decide on."""
        if purpose is Purpose.METER:
            return MeterRequest(evidence=evidence).encode()
        brief = self._brief
        return ReleaseRequest(
            evidence=evidence,
            job=brief.job.encode(),
            order=brief.order.encode(),
            terms=brief.terms.encode(),
            manifests=tuple(each.encode() for each in brief.inputs),
        ).encode()

    def open_seat_grant(self, v: Verifier, grant: Grant) -> OpenGrant:
        """Open a seat's grant: exactly its scopes, of this job's inputs and outputs. Raises."""
        entries = tuple(e for e in self._brief.entries if e.identity == v.identity)
        cores: tuple[Core, ...] = tuple(each.document.core for each in self._brief.inputs)
        enclaves = self._brief.job.document.enclaves
        scopes = seat_scopes(v.identity, cores, entries, enclaves=enclaves)
        asked = self._asked(v, number=0, scopes=scopes, derived_entries=frozenset(entries))
        opened = open_grant(grant, asked, self._hpke)
        stated = opened.info.checkpoint
        if stated is not None and stated.generation >= self._launch.generation:
            raise SessionError(
                f"grant states a checkpoint of generation {stated.generation}, "
                f"this is generation {self._launch.generation}"
            )
        return opened

    # --- follow-ups ------------------------------------------------------------------------------

    def asking(
        self,
        v: Verifier,
        kind: FollowUpKind,
        artifacts: tuple[Signed[Manifest], ...],
        account: Account,
    ) -> Asking:
        """The next follow-up to a custodian, under the number that `v` has now."""
        assert v.nonce is not None
        follow_up = FollowUp(
            custodian=v.identity,
            nonce=v.nonce,
            job=self._launch.job,
            generation=self._launch.generation,
            rank=self._launch.rank,
            number=v.number,
            kind=kind,
            account=account,
            artifacts=tuple(each.encode() for each in artifacts),
        )
        cores = [each.document.core for each in artifacts]
        return Asking(
            follow_up=follow_up, artifacts=artifacts, scopes=derived_scopes(v.identity, cores)
        )

    def open_answer(self, v: Verifier, grant: Grant) -> OpenGrant:
        """Open the grant that answers what is being asked. Raises."""
        if v.asking is None:
            raise SessionError("a grant that nobody asked for")
        number, scopes = v.asking.follow_up.number, v.asking.scopes
        asked = self._asked(v, number=number, scopes=scopes, derived_entries=frozenset())
        return open_grant(grant, asked, self._hpke)

    def _asked(
        self,
        v: Verifier,
        *,
        number: int,
        scopes: frozenset[Scope],
        derived_entries: frozenset[Custodian],
    ) -> Asked:
        assert v.nonce is not None
        return Asked(
            custodian=v.identity,
            nonces=frozenset(v.nonces if number == 0 else {v.nonce}),
            job=self._launch.job,
            generation=self._launch.generation,
            rank=self._launch.rank,
            number=number,
            terms=self._brief.terms.digest,
            scopes=scopes,
            derived_entries=derived_entries,
        )


def open_acknowledgement(v: Verifier, signed: bytes) -> Acknowledgement:
    """An acknowledgement by this custodian, under a log head of its own. Raises."""
    ack = verify_signed(Acknowledgement, signed, signer=v.identity).document
    head = verify_signed(LogHead, ack.head, signer=v.identity).document
    if v.identity not in (ack.custodian, head.custodian) or ack.custodian != head.custodian:
        raise SessionError("an acknowledgement in another custodian's name")
    return ack
