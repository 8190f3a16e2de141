"""What the clients of a serve job say: who is heard, and for what.

Rules: only keys that the job manifest names are heard, each in its own name. A challenge and a
cancellation are signed; a request is sealed, and signed inside (serving.py). The buyer's signed
close, of this very job, is the run's end.
"""

from __future__ import annotations

from enclave_runtime.actions import ServeAsked, ServeCancelled
from enclave_runtime.attester import stated
from enclave_runtime.briefing import Brief
from enclave_runtime.papers import Papers
from enclave_runtime.serving import Serving
from trust.errors import SessionError
from trust.identity import PartyKey, verify_signed
from trust.jobs import Close
from trust.messages import (
    Challenge,
    Purpose,
    ServeCancel,
    ServeOffer,
    ServeRequest,
    SignedMessage,
    Statement,
    signed_label,
)


class Clients:
    """The clients of one serve job, and its buyer."""

    def __init__(self, brief: Brief, papers: Papers, signing_key: PartyKey) -> None:
        self._brief, self._papers = brief, papers
        self.serving = Serving(brief, signing_key)

    def hear(
        self, peer: bytes, message: ServeRequest | SignedMessage
    ) -> ServeAsked | ServeCancelled | Statement | Close:
        """What one message of `peer` wants; a statement is to be signed by the hardware. Raises."""
        if isinstance(message, SignedMessage) and signed_label(message.signed) == Close.LABEL:
            buyer, job = self._brief.job.document.buyer, self._brief.launch.job
            close = verify_signed(Close, message.signed, signer=buyer).document
            if close.job != job:
                raise SessionError("the close of another job")
            return close
        self.serving.check_client(peer)
        if isinstance(message, ServeRequest):
            return ServeAsked(client=peer, request=message)
        if signed_label(message.signed) == ServeCancel.LABEL:
            return self._cancel(peer, message.signed)
        challenge = verify_signed(Challenge, message.signed, signer=peer).document
        if (challenge.verifier, challenge.purpose) != (peer, Purpose.SERVE):
            raise SessionError("a challenge in another's name, or for another purpose than serve")
        return self._papers.statement(challenge)

    def offer(self, statement: Statement, evidence: bytes, clock_ms: int) -> bytes:
        """Evidence for a client's challenge, with the key that its requests are sealed to.

        Every challenge is answered, however many are on their way: a client repeats itself. Raises
        SessionError for a statement that is not this enclave's to a client.
        """
        self.serving.check_client(statement.verifier)
        challenge = Challenge(
            verifier=statement.verifier, purpose=Purpose.SERVE, nonce=statement.nonce
        )
        if stated(statement, None) != self._papers.statement(challenge):
            raise SessionError("evidence for a statement that this enclave does not make")
        key = self.serving.offer(statement, clock_ms)
        return ServeOffer(evidence=evidence, request_key=key.encode()).encode()

    def _cancel(self, peer: bytes, signed: bytes) -> ServeCancelled:
        cancel = verify_signed(ServeCancel, signed, signer=peer).document
        launch = self._brief.launch
        if (cancel.job, cancel.generation) != (launch.job, launch.generation):
            raise SessionError("a cancellation of another run's reply")
        return ServeCancelled(client=peer, exchange=cancel.exchange)
