"""The enclave's side of the protocol, without I/O: events in, actions out.

Rules:
- One table, `states.TRANSITIONS`, says which message moves which verifier from where to where. A
  message that has no row there, is not from the party that it is about, or does not check changes
  nothing and yields `Ignored`. Checks come before the first change of state.
- Grants are taken only from custodians that the inputs' signed manifests name; keys are there when
  all of them granted and the market said that it meters this enclave.
- A run starts from exactly the newer, by (generation, step), of the checkpoints that custodians
  stated. What the host offers is only ever looked up under the stated artifact id.
- A checkpoint is committed once every custodian acknowledged it. The run goes at most
  `uncommitted_checkpoints_max` intervals beyond the last committed one, and never beyond the least
  of the custodians' allowances: `MayRun` is the one place where that is decided.
- Outputs are reopened before the receipt that says *done*. Receipts are cumulative and chained.
- A failure after the keys came could tell by its moment what the rows hold: its receipt waits for
  the next tick (attacks.md, 10). Ends that public counts decide do not wait.
- A serve job runs until its buyer closes it, or its owner grants no more tokens. Clients that the
  manifest names are heard once it has begun; what they ask is `Serving`'s and its desk's.
- Time is a parameter, in milliseconds of the enclave's monotonic clock since boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from enclave_runtime.actions import (
    Action,
    Closed,
    Committed,
    GotKeys,
    Ignored,
    MayRun,
    NeedEvidence,
    NeedManifest,
    OutputsGranted,
    Send,
    ServeAsked,
    ServeCancelled,
    Stopping,
    Waiting,
)
from enclave_runtime.allowances import Allowances
from enclave_runtime.attester import stated
from enclave_runtime.briefing import Brief
from enclave_runtime.clients import Clients
from enclave_runtime.commits import At, Commits
from enclave_runtime.grants import (
    OpenGrant,
)
from enclave_runtime.papers import Papers, open_acknowledgement
from enclave_runtime.questions import Questions
from enclave_runtime.receipts import ReceiptBook
from enclave_runtime.serving import Serving
from enclave_runtime.states import TRANSITIONS, Answer, RunState, Verifier, VerifierState
from enclave_runtime.vault import Opens, Vault
from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.errors import BlindhostError, SessionError
from trust.identity import PartyKey, Signed
from trust.jobs import Close, JobKind
from trust.messages import (
    Account,
    Acknowledgement,
    Challenge,
    CheckpointAt,
    End,
    FollowUpKind,
    Grant,
    Message,
    Metered,
    Purpose,
    ReceiptPosted,
    Refused,
    ScopeKind,
    ServeRequest,
    SignedMessage,
    Statement,
    parse_message,
    signed_label,
)
from trust.sealing import HpkePrivateKey

SEAT_TAKEN: Final = "seat-taken"  # trust/release_checks.py: the one refusal that is no verdict
TICK_MS: Final = 60_000  # wire-objects §1.9: what market and host may see of time
CLOSING_MS_MAX: Final = 120_000  # a closing account that is not answered only leaves budget unused
GREETINGS_MAX: Final = 16  # a verifier that restarts forgets its nonces; sixteen restarts are odd
ASK_AGAIN_MS: Final = 600_000  # a budget that was used up may be there again
# Refusals after which the same enclave may greet again: its challenge is gone, not its consent.
STALE: Final = frozenset({"nonce-stale", "nonce-unknown"})
# Refusals of reports and receipts name the seat's nonce too. They are sent again, so they answer
# nothing that waits.
REPLAYED: Final = "follow-up-replayed"  # its number was answered after all: the next one is free
RENUMBERED_MAX: Final = 8  # an answered question under each of so many numbers is no accident
NOT_FOLLOW_UPS: Final = ("report-", "receipt-", "segments-")


class Session:
    """One enclave's session, from the first hello to the last receipt.

    `compute_class` is this enclave's own; `same_class` whether it is the manifest's.
    """

    def __init__(
        self,
        brief: Brief,
        *,
        hpke_key: HpkePrivateKey,
        signing_key: PartyKey,
        vault: Vault,
        compute_class: str,
        same_class: bool,
    ) -> None:
        self._brief, self._job = brief, brief.job.document
        self._signing, self._vault = signing_key, vault
        self._papers = Papers(brief, hpke_key=hpke_key, signing_key=signing_key)
        self.state = RunState.OPENING
        self._questions = Questions()
        self._custodians = {
            identity: Verifier(identity=identity, purpose=Purpose.RELEASE)
            for identity in brief.custodians
        }
        self._market = Verifier(identity=brief.launch.market, purpose=Purpose.METER)
        self._at: CheckpointAt | None = None
        self._resume: Manifest | None = None
        self._shares_ms: int | None = None
        self._until, self._begun = 0, False
        self._allowances = Allowances(brief)
        self._used = self._allowances.used
        self._commits = Commits(brief.launch, frozenset(self._custodians))
        self._outputs: tuple[Signed[Manifest], ...] = ()
        self._receipts = ReceiptBook(brief, compute_class=compute_class, same_class=same_class)
        self._receipt_tick = 0
        self._end: End | None = None
        self._end_ms = 0
        self._end_told = False
        serves = self._job.kind is JobKind.SERVE
        self._clients = Clients(brief, self._papers, signing_key) if serves else None
        self._asked_ms = 0

    # --- what the shell may look at --------------------------------------------------------------

    @property
    def serving(self) -> Serving | None:
        """Requests and replies of a serve job; None: it is another."""
        return None if self._clients is None else self._clients.serving

    @property
    def verifier_states(self) -> dict[tuple[bytes, Purpose], VerifierState]:
        """How far each verifier is."""
        return {(v.identity, v.purpose): v.state for v in self._verifiers()}

    @property
    def step(self) -> int:
        """The newest step taken."""
        return self._used.step

    @property
    def account(self) -> Account:
        """What this enclave has used since its start."""
        return self._allowances.account

    @property
    def trained_tokens(self) -> int:
        """Steps of this run × rows × length: what its receipts say."""
        return self._allowances.trained_tokens

    def milliseconds(self, clock_ms: int) -> int:
        """Since all shares were there; 0 before."""
        return 0 if self._shares_ms is None else clock_ms - self._shares_ms

    @property
    def reports_left(self) -> int | None:
        """Reports that custodians still allow; None: no bound."""
        return self._allowances.reports_left(self._custodians.values())

    @property
    def tokens_left(self) -> int | None:
        """Tokens that custodians still allow; None: no bound."""
        return self._allowances.tokens_left(self._custodians.values())

    # --- opening ---------------------------------------------------------------------------------

    def start(self, clock_ms: int) -> list[Action]:
        """Greet every verifier."""
        return [self._greet(v, clock_ms) for v in self._verifiers()]

    def receive(self, peer: bytes, payload: bytes, clock_ms: int) -> list[Action]:
        """Take one message that claims to come from `peer`. Never raises for what it holds."""
        try:
            return self._receive(peer, parse_message(payload), clock_ms)
        except BlindhostError as error:
            return [Ignored(reason=str(error))]

    def evidence_ready(
        self,
        statement: Statement,
        *,
        platform: str,
        report: bytes,
        gpu: bytes | None = None,
        offered: tuple[tuple[str, bytes], ...] = (),
        clock_ms: int,
    ) -> list[Action]:
        """The hardware signed a statement that `NeedEvidence` named: ask its verifier.

        The report is over `stated(statement, gpu)`; `gpu` None: there is no GPU. `offered` are
        endorsements that came with it. Raises SessionError for any other statement.
        """
        serves = statement.purpose is Purpose.SERVE
        if self.state is not (RunState.RUNNING if serves else RunState.OPENING):
            return []
        signed = stated(statement, gpu)
        evidence = self._papers.evidence(
            signed, platform=platform, report=report, gpu=gpu, offered=offered
        )
        if serves:
            assert self._clients is not None
            offer = self._clients.offer(signed, evidence, clock_ms)
            return [Send(peer=statement.verifier, payload=offer)]
        verifier = self._find(statement.verifier, statement.purpose)
        after = self._next(verifier, Answer.EVIDENCE)
        if verifier.statement != statement:
            raise SessionError("evidence for a statement that is not the newest")
        request = self._papers.request(verifier.purpose, evidence)
        verifier.state = after
        verifier.nonces.add(statement.nonce)
        what = "a grant" if verifier.purpose is Purpose.RELEASE else "metering"
        return [self._ask("open", verifier, request, what, clock_ms)]

    def manifest_ready(self, manifest: Manifest, clock_ms: int) -> list[Action]:
        """The manifest that `NeedManifest` wanted. Ends the run if it is another."""
        if self.state is not RunState.CHOOSING:
            return []
        return self._resume_from(manifest, clock_ms)

    # --- running ---------------------------------------------------------------------------------

    def begun(self, *, same_class: bool, clock_ms: int) -> list[Action]:
        """Inputs and checkpoint are in memory. `same_class`: as the manifest or checkpoint says."""
        if self.state is not RunState.RUNNING:
            return []
        assert not self._begun
        self._begun, self._receipts.same_class = True, same_class
        return [*self._receipt(clock_ms), *self._go_on(clock_ms)]

    def stepped(self, step: int, clock_ms: int) -> list[Action]:
        """The run took `step`. Raises SessionError if it was not allowed, or not the next."""
        if self.state is not RunState.RUNNING or not self._begun:
            return []
        if not self.step < step <= self._until:
            raise SessionError(f"step {step} after {self.step}, allowed until {self._until}")
        self._used.step = step
        return self._go_on(clock_ms)

    def evaluated(self) -> None:
        """An evaluation is over: its tokens count."""
        self._used.evaluations += 1

    def reported(self, count: int, clock_ms: int) -> list[Action]:
        """So many losses and scores left."""
        self._used.reports += count
        return self._go_on(clock_ms)

    def served(self, tokens: int, clock_ms: int) -> list[Action]:
        """So many more tokens of prompts and replies were used."""
        self._used.served.used += tokens
        return self._go_on(clock_ms)

    def starved(self, clock_ms: int) -> list[Action]:
        """A request was turned away for want of tokens: ask for more now."""
        self._allowances.starve()
        return self._go_on(clock_ms)

    def checkpoint_stored(
        self, step: int, manifest: Signed[Manifest], clock_ms: int
    ) -> list[Action]:
        """A checkpoint is in the blob store, whole: report it to every custodian."""
        if self.state is not RunState.RUNNING:
            return []
        report = self._commits.report(step, manifest)
        payload = self._papers.signed(report)
        what = f"the acknowledgement of the checkpoint at step {step}"
        return [
            self._ask(("report", report.digest), v, payload, what, clock_ms)
            for v in self._custodians.values()
        ]

    def outputs_stored(self, outputs: Sequence[Signed[Manifest]], clock_ms: int) -> list[Action]:
        """Outputs are in the blob store, whole: ask every custodian for their shares again."""
        if self.state is not RunState.RUNNING:
            return []
        self.state, self._outputs = RunState.REOPENING, tuple(outputs)
        if not outputs:
            return [OutputsGranted()]
        actions: list[Action] = []
        for verifier in self._custodians.values():
            actions += self._follow_up(verifier, FollowUpKind.SHARE, self._outputs, clock_ms)
        return actions

    def reopened(self, clock_ms: int) -> list[Action]:
        """Outputs opened with the shares that were given again: the run is done."""
        if self.state is not RunState.REOPENING:
            return []
        return self._stop(End.DONE, "done", clock_ms)

    def end(self, end: End, text: str, clock_ms: int) -> list[Action]:
        """The shell ends the run, and why. `DONE` has its own way: `reopened`."""
        assert end is not End.DONE
        return self._stop(end, text, clock_ms)

    def tick(self, clock_ms: int) -> list[Action]:
        """Time has passed: resend, say for whom the run waits, give receipts, close."""
        actions: list[Action] = []
        if self.state is RunState.ENDED:
            return actions
        due, untold = self._questions.due(clock_ms), self._questions.untold(clock_ms)
        actions += [Send(peer=each.peer, payload=each.payload) for each in due]
        actions += [Waiting(peer=each.peer, what=each.what) for each in untold]
        if self.state is RunState.CLOSING:
            return actions + self._close(clock_ms)
        if hopeless := self._questions.hopeless(clock_ms):
            text = f"nobody gave {hopeless.what}: {hopeless.peer.hex()}"
            return actions + self._stop(End.STOPPED, text, clock_ms)
        if self._begun and clock_ms // TICK_MS > self._receipt_tick:
            actions += self._receipt(clock_ms)
        if self.serving is not None:
            if clock_ms - self._asked_ms >= ASK_AGAIN_MS:
                self._asked_ms = clock_ms
                for v in self._custodians.values():
                    v.asked_at.clear()
            actions += self._go_on(clock_ms)
        return actions

    # --- messages --------------------------------------------------------------------------------

    def _receive(self, peer: bytes, message: Message, clock_ms: int) -> list[Action]:
        match message:
            case Challenge(verifier=verifier, purpose=purpose):
                return self._challenge(self._from(peer, verifier, purpose), message)
            case Grant():
                return self._grant(self._from(peer, peer, Purpose.RELEASE), message, clock_ms)
            case Metered():
                return self._metered(self._from(peer, peer, Purpose.METER), message, clock_ms)
            case Refused():
                return self._refused(peer, message, clock_ms)
            case ReceiptPosted():
                return self._posted(self._from(peer, peer, Purpose.METER), message, clock_ms)
            case SignedMessage(signed=signed) if signed_label(signed) == Acknowledgement.LABEL:
                return self._acknowledged(self._from(peer, peer, Purpose.RELEASE), signed, clock_ms)
            case ServeRequest() | SignedMessage() if self._clients is not None:
                return self._of_client(self._clients, peer, message, clock_ms)
            case _:
                raise SessionError(f"{type(message).__name__} is nothing that an enclave takes")

    def _challenge(self, v: Verifier, challenge: Challenge) -> list[Action]:
        after = self._next(v, Answer.CHALLENGE)
        self._check_opening()
        if challenge.nonce in v.nonces:
            raise SessionError("a challenge that was answered before")
        v.state, v.nonce = after, challenge.nonce
        v.statement = self._papers.statement(challenge)
        self._questions.answered(("open", v.purpose, v.identity))
        return [NeedEvidence(statement=v.statement)]

    def _grant(self, v: Verifier, grant: Grant, clock_ms: int) -> list[Action]:
        after = self._next(v, Answer.GRANT)
        if after is VerifierState.GRANTED and v.state is VerifierState.GRANTED:
            return self._follow_up_granted(v, grant, clock_ms)
        self._check_opening()
        opened = self._papers.open_seat_grant(v, grant)
        self._keep_shares(v, opened)
        v.state, v.nonce, v.stated = after, opened.info.nonce, opened.info.checkpoint
        self._allowances.grant(v, opened)
        self._questions.answered(("open", v.purpose, v.identity))
        return self._opened(clock_ms)

    def _metered(self, v: Verifier, metered: Metered, clock_ms: int) -> list[Action]:
        after = self._next(v, Answer.METERED)
        self._check_opening()
        if metered.signing_key != self._signing.identity or metered.nonce not in v.nonces:
            raise SessionError("metering of another key or nonce than this enclave's")
        v.state = after
        self._questions.answered(("open", v.purpose, v.identity))
        return self._opened(clock_ms)

    def _refused(self, peer: bytes, refused: Refused, clock_ms: int) -> list[Action]:
        if refused.verifier != peer:
            raise SessionError("a refusal in another party's name")
        asked = [v for v in self._verifiers() if v.identity == peer and v.nonce == refused.nonce]
        if not asked:
            raise SessionError("a refusal of a question that is not open")
        v = asked[0]
        stale = refused.code in STALE and v.state is VerifierState.ASKED
        after = self._next(v, Answer.STALE if stale else Answer.REFUSED)
        if v.state is VerifierState.GRANTED:
            return self._follow_up_refused(v, refused, clock_ms)
        if after is VerifierState.GREETING and v.greetings < GREETINGS_MAX:
            v.state = after
            return [self._greet(v, clock_ms)]
        v.state = VerifierState.REFUSED
        # A seat that another enclave has is its host's doing: elsewhere the job would be granted.
        end = End.STOPPED if refused.code == SEAT_TAKEN else End.REFUSED
        return self._stop(end, f"{refused.code}: {refused.text}", clock_ms)

    def _acknowledged(self, v: Verifier, signed: bytes, clock_ms: int) -> list[Action]:
        self._next(v, Answer.ACKNOWLEDGEMENT)
        ack = open_acknowledgement(v, signed)
        settled = self._commits.acknowledge(v.identity, ack.report)
        self._questions.answered((("report", ack.report), v.purpose, v.identity))
        if not settled:
            return []
        for each in settled:
            for other in each.missing:
                self._questions.answered((("report", each.report), Purpose.RELEASE, other))
        committed = Committed(step=settled[-1].step, artifact=settled[-1].artifact)
        if self.state not in (RunState.RUNNING, RunState.REOPENING):
            return [committed]
        return [committed, *self._receipt(clock_ms), *self._go_on(clock_ms)]

    def _posted(self, v: Verifier, posted: ReceiptPosted, clock_ms: int) -> list[Action]:
        self._next(v, Answer.POSTED)
        if posted.receipt != self._receipts.last:
            raise SessionError("not the newest receipt")
        self._questions.answered(("receipt", v.purpose, v.identity))
        return self._close(clock_ms) if self.state is RunState.CLOSING else []

    # --- clients ---------------------------------------------------------------------------------

    def _of_client(
        self, clients: Clients, peer: bytes, message: ServeRequest | SignedMessage, clock_ms: int
    ) -> list[Action]:
        """What clients say to a serve job that has begun, and its buyer's last word."""
        if self.state is not RunState.RUNNING or not self._begun:
            raise SessionError(f"nothing is served: the run is {self.state.value}")
        match clients.hear(peer, message):
            case Close():
                return self._stop(End.DONE, "closed by its buyer", clock_ms)
            case Statement() as statement:
                return [NeedEvidence(statement=statement)]
            case ServeAsked() | ServeCancelled() as action:
                return [action]

    # --- which checkpoint ------------------------------------------------------------------------

    def _opened(self, clock_ms: int) -> list[Action]:
        """Once every verifier granted: choose where to start."""
        if any(v.state is not VerifierState.GRANTED for v in self._verifiers()):
            return []
        self.state = RunState.CHOOSING
        stated = [v.stated for v in self._custodians.values() if v.stated is not None]
        if not stated:
            return self._got_keys(clock_ms)
        self._at = max(stated, key=lambda at: at.order)
        if len({at.artifact for at in stated if at.order == self._at.order}) > 1:
            text = f"custodians state two checkpoints at {self._at.order}"
            return self._stop(End.FAILED, text, clock_ms)
        offered = self._brief.checkpoints.get(self._at.artifact)
        if offered is None:
            return [NeedManifest(artifact=self._at.artifact)]
        return self._resume_from(offered.document, clock_ms)

    def _resume_from(self, manifest: Manifest, clock_ms: int) -> list[Action]:
        assert self._at is not None
        core = manifest.core
        if (
            manifest.digest != self._at.artifact
            or core.kind is not ArtifactKind.CHECKPOINT
            or core.origin is None
            or (core.origin.job, core.origin.generation)
            != (self._brief.launch.job, self._at.generation)
            or core.custodians != self._brief.entries
        ):
            text = "the manifest is not of the checkpoint that the custodians state"
            return self._stop(End.FAILED, text, clock_ms)
        self._resume = manifest
        absent = {entry.identity for entry in self._vault.missing(ScopeKind.DERIVED, core)}
        if not absent:
            return self._got_keys(clock_ms)
        signed = self._brief.checkpoints.get(self._at.artifact)
        if signed is None:
            text = "the host offers no signed manifest of the checkpoint that a custodian states"
            return self._stop(End.FAILED, text, clock_ms)
        actions: list[Action] = []
        for identity in sorted(absent):
            verifier = self._custodians[identity]
            actions += self._follow_up(verifier, FollowUpKind.SHARE, (signed,), clock_ms)
        return actions

    def _got_keys(self, clock_ms: int) -> list[Action]:
        tokens, reserved = self.tokens_left, self._allowances.reserved_for_evaluations()
        if tokens is not None and tokens < reserved:
            text = f"{tokens} tokens are allowed, the evaluations take {reserved}"
            return self._stop(End.OUT_OF_BUDGET, text, clock_ms)
        self.state, self._shares_ms = RunState.RUNNING, clock_ms
        self._until = self._used.first_step = self._used.step = self._at.step if self._at else 0
        if self._at is not None:
            self._commits.newest = At(step=self._at.step, artifact=self._at.artifact)
        return [GotKeys(at=self._at, manifest=self._resume)]

    # --- follow-ups ------------------------------------------------------------------------------

    def _follow_up(
        self,
        v: Verifier,
        kind: FollowUpKind,
        artifacts: tuple[Signed[Manifest], ...],
        clock_ms: int,
    ) -> list[Action]:
        """Ask now, or after the one that is being asked: one at a time for each custodian."""
        if v.asking is not None:
            v.queue.append((kind, artifacts))
            return []
        v.number += 1
        v.asking = self._papers.asking(v, kind, artifacts, self.account)
        payload = self._papers.signed(v.asking.follow_up)
        return [self._ask("follow-up", v, payload, f"an answer to {kind.value}", clock_ms)]

    def _follow_up_granted(self, v: Verifier, grant: Grant, clock_ms: int) -> list[Action]:
        opened = self._papers.open_answer(v, grant)
        assert v.asking is not None
        kind = v.asking.follow_up.kind
        match kind:
            case FollowUpKind.ACCOUNT:
                self._allowances.grant(v, opened)
            case FollowUpKind.SHARE:
                if self.state in (RunState.CHOOSING, RunState.REOPENING):
                    self._keep_shares(v, opened)
            case FollowUpKind.CLOSE:
                v.closed = True
        return self._follow_up_answered(v, kind, clock_ms)

    def _follow_up_refused(self, v: Verifier, refused: Refused, clock_ms: int) -> list[Action]:
        if v.asking is None or refused.code.startswith(NOT_FOLLOW_UPS):
            raise SessionError(f"a refusal of nothing that waits: {refused.code}")
        kind = v.asking.follow_up.kind
        if refused.code == REPLAYED and v.renumbered < RENUMBERED_MAX:
            artifacts, v.asking, v.renumbered = v.asking.artifacts, None, v.renumbered + 1
            return self._follow_up(v, kind, artifacts, clock_ms)
        v.number -= 1  # a refused question was not answered: its number is the next one's
        match kind:
            case FollowUpKind.ACCOUNT:
                pass  # what is allowed stays allowed, and is all
            case FollowUpKind.CLOSE:
                v.closed = True
            case FollowUpKind.SHARE:
                choosing = self.state is RunState.CHOOSING
                end = End.REFUSED if choosing else End.FAILED
                what = "the checkpoint's share" if choosing else "an output's share"
                if self.state in (RunState.CHOOSING, RunState.REOPENING):
                    self._follow_up_answered(v, kind, clock_ms)
                    text = f"{v.identity.hex()} refuses {what}: {refused.code}"
                    return self._stop(end, text, clock_ms)
        return self._follow_up_answered(v, kind, clock_ms)

    def _follow_up_answered(self, v: Verifier, kind: FollowUpKind, clock_ms: int) -> list[Action]:
        v.asking = None
        self._questions.answered(("follow-up", v.purpose, v.identity))
        actions: list[Action] = []
        if v.queue:
            actions += self._follow_up(v, *v.queue.popleft(), clock_ms)
        if kind is FollowUpKind.SHARE and not any(
            other.wants(kind) for other in self._custodians.values()
        ):
            if self.state is RunState.CHOOSING:
                actions += self._got_keys(clock_ms)
            elif self.state is RunState.REOPENING:
                actions.append(OutputsGranted())
        if self.state is RunState.RUNNING and self._begun:
            actions += self._go_on(clock_ms)
        if self.state is RunState.CLOSING:
            actions += self._close(clock_ms)
        return actions

    # --- how far ---------------------------------------------------------------------------------

    def _go_on(self, clock_ms: int) -> list[Action]:
        """Raise the limit, ask for more allowance in time, or stop where nothing more comes."""
        if self.state is not RunState.RUNNING or not self._begun:
            return []
        actions: list[Action] = []
        newest = self._commits.newest
        committed = newest.step if newest else 0
        until = self._allowances.limit(self._custodians.values(), committed=committed)
        if until > self._until:
            self._until = until
            actions.append(MayRun(until=until))
        quiet = self.serving is None or self.serving.is_quiet
        for v in self._custodians.values():
            if self._allowances.used_up(v, quiet=quiet):
                at = f" at step {self.step}" if self.serving is None else ""
                text = f"the allowance by {v.identity.hex()} is used up{at}"
                return actions + self._stop(End.OUT_OF_BUDGET, text, clock_ms)
            if (mark := self._allowances.wants_more(v)) and v.asking is None:
                v.asked_at.add(mark)
                actions += self._follow_up(v, FollowUpKind.ACCOUNT, (), clock_ms)
        return actions

    # --- receipts and the end --------------------------------------------------------------------

    def _receipt(self, clock_ms: int) -> list[Action]:
        """The next receipt: to the market until it says *posted*, and to every custodian once."""
        last, newest = self._end is not None, self._commits.newest
        receipt = self._receipts.next(
            milliseconds=self.milliseconds(clock_ms),
            first_step=self._used.first_step,
            step=self.step,
            tokens=self.trained_tokens
            if self.serving is None
            else self._used.served.said(clock_ms, last=last),
            committed=newest.artifact if newest else None,
            end=self._end,
            outputs=tuple(o.digest for o in self._outputs) if self._end is End.DONE else (),
        )
        self._receipt_tick = clock_ms // TICK_MS
        payload = self._papers.signed(receipt)
        what = "the last receipt to be posted" if last else "a receipt to be posted"
        return [
            self._ask("receipt", self._market, payload, what, clock_ms),
            *(
                Send(peer=v.identity, payload=payload)
                for v in self._custodians.values()
                if v.state is VerifierState.GRANTED  # who granted knows the key; nobody else does
            ),
        ]

    def _stop(self, end: End, text: str, clock_ms: int) -> list[Action]:
        """No more work. The closing begins now, or at the next tick for a failure among secrets."""
        if self.state in (RunState.CLOSING, RunState.ENDED):
            return []
        hides = end is End.FAILED and self._shares_ms is not None
        self.state, self._end = RunState.CLOSING, end
        self._end_ms = (clock_ms // TICK_MS + 1) * TICK_MS if hides else clock_ms
        # A follow-up that is being asked keeps its number: the closing account comes after it.
        self._questions.drop_all_but("follow-up")
        if self.serving is not None:
            self.serving.erase()
        for v in self._custodians.values():
            v.queue.clear()
        return [Stopping(end=end, text=text), *self._close(clock_ms)]

    def _close(self, clock_ms: int) -> list[Action]:
        assert self._end is not None
        if clock_ms < self._end_ms:
            return []
        actions: list[Action] = []
        granted = [v for v in self._custodians.values() if v.state is VerifierState.GRANTED]
        if not self._end_told:
            self._end_told = True
            if self._market.state is VerifierState.GRANTED:
                actions += self._receipt(clock_ms)
            for v in granted:
                actions += self._follow_up(v, FollowUpKind.CLOSE, (), clock_ms)
        late = clock_ms >= self._end_ms + CLOSING_MS_MAX
        if late or (not self._questions and all(v.closed for v in granted)):
            self.state = RunState.ENDED
            actions.append(Closed(end=self._end))
        return actions

    # --- small things ----------------------------------------------------------------------------

    def _verifiers(self) -> list[Verifier]:
        return [*self._custodians.values(), self._market]

    def _find(self, identity: bytes, purpose: Purpose) -> Verifier:
        for v in self._verifiers():
            if (v.identity, v.purpose) == (identity, purpose):
                return v
        raise SessionError(f"{identity.hex()} is no {purpose.value} verifier of this run")

    def _from(self, peer: bytes, named: bytes, purpose: Purpose) -> Verifier:
        if peer != named:
            raise SessionError(f"a message of {named.hex()} that came from {peer.hex()}")
        return self._find(named, purpose)

    def _check_opening(self) -> None:
        if self.state is not RunState.OPENING:
            raise SessionError(f"nothing is opened any more: the run is {self.state.value}")

    @staticmethod
    def _next(v: Verifier, answer: Answer) -> VerifierState:
        after = TRANSITIONS.get((v.purpose, v.state, answer))
        if after is None:
            raise SessionError(f"{answer.value} while {v.purpose.value} is {v.state.value}")
        return after

    def _greet(self, v: Verifier, clock_ms: int) -> Send:
        v.greetings += 1
        return self._ask("open", v, self._papers.hello(v), "a challenge", clock_ms)

    def _ask(self, key: object, v: Verifier, payload: bytes, what: str, clock_ms: int) -> Send:
        self._questions.ask(
            (key, v.purpose, v.identity),
            peer=v.identity,
            payload=payload,
            what=what,
            clock_ms=clock_ms,
        )
        return Send(peer=v.identity, payload=payload)

    def _keep_shares(self, v: Verifier, opened: OpenGrant) -> None:
        for scope, share in zip(opened.info.scopes, opened.secret.shares, strict=True):
            entry = Custodian(identity=v.identity, lineage=scope.lineage, epoch=scope.epoch)
            self._vault.put(Opens(scope=scope.scope, entry=entry, core=scope.core), share)
