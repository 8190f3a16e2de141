"""Appraisal again, on one's own machine: what a verdict rests on, or what it would be.

- *Again*: the very evidence that the broker kept, the policies that the log names, today's clock.
  The same checks are made by the same code as for a release (trust/verifier); nothing is released.
- *Would be*: an offer is a host's word. It can rule a release out; it can never promise one, so
  what evidence alone can say is *not known*.
- A check that nobody made is no pass and no refusal: it is a line of its own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from client.evidence import EvidenceFolder, KeptEvidence, kept_seats
from client.home import Home
from client.release_log import read_entries
from marketplace.wire import OfferView
from trust.custody import lineage_kind
from trust.errors import BlindhostError, EvidenceError, EvidenceSignatureError, RefusedError
from trust.identity import verify_signed
from trust.jobs import JobManifest, UsePolicy
from trust.messages import EvidenceBundle, Statement
from trust.release_checks import KINDS, check_launch
from trust.release_state import AcceptedReleases, Holdings, LogEntry, Released, SeatName
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import AttestationResult, CheckLine, Verdict, line
from trust.verifier.roots import RootKind

NOT_LOOKED_AT: Final = "none looked at"
"""What trust/verifier/appraisal.py says it found where it looked at nothing."""
_GROUPS: Final[Mapping[str, str]] = {
    "measurement": "image",
    "image-in-job": "image",
    "gpu": "gpu",
    "facility": "facility",
    "report-data": "session",
    "host-data": "session",
    "statement-in-log": "session",
    "launch-document": "session",
    "verdict-in-log": "session",
    "lineage-kind": "policy",
    "time": "policy",
    "root": "policy",
}


class Outcome(enum.StrEnum):
    """What became of a check, in words. Only the first is a pass."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_CHECKED = "NOT CHECKED"
    NOT_DEMANDED = "not demanded"


_ORDER: Final = (Outcome.FAILED, Outcome.NOT_CHECKED, Outcome.PASSED, Outcome.NOT_DEMANDED)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One check, as a person reads it."""

    id: str
    group: str
    outcome: Outcome
    found: str
    wanted: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Appraisal:
    """One policy's verdict over one seat's evidence, made at `made_at`."""

    job: bytes
    generation: int
    rank: int
    policy: bytes | None
    """Digest of the appraisal policy; None: there was nothing to appraise by."""
    simulated: bool
    """Its roots are simulated: it proves nothing about hardware."""
    platform: str
    chip: bytes | None
    """None: the evidence names no chip, or does not hold."""
    image: bytes | None
    """Measurement, 48 bytes; None: the evidence does not hold."""
    lines: tuple[Line, ...]
    """Failed ones first, then those that nobody made, then passed, then not demanded."""
    made_at: int
    entry: int | None
    """Number of the release in one's own log; None: it was refused."""
    words: str
    """Why there are no lines, or what was said on the day; may be empty."""

    @property
    def headline(self) -> str:
        """The verdict in words. It says neither "secure" nor "safe"."""
        if not self.lines:
            return "NOT YET" if self.entry is None else "NO EVIDENCE KEPT"
        failed = [each.id for each in self.lines if each.outcome is Outcome.FAILED]
        if failed:
            return "EXPIRED" if failed == ["time"] else f"REFUSED at {failed[0]}"
        missing = self.count(Outcome.NOT_CHECKED)
        if not missing:
            return "PASSED"
        return f"PASSED, {missing} check{'s' if missing > 1 else ''} not made"

    def count(self, outcome: Outcome) -> int:
        """How many lines say so. All four counts sum to the number of lines."""
        return sum(each.outcome is outcome for each in self.lines)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seated:
    """A release in one's own log."""

    entry: LogEntry
    released: Released
    statement: Statement

    @property
    def name(self) -> SeatName:
        """Job, generation, rank."""
        said = self.statement
        return said.job, said.generation, said.rank


def log_entries(home: Home) -> tuple[LogEntry, ...]:
    """All entries of a home's release log, their chain checked; none where no broker ever ran.

    Raises ReleaseLogError.
    """
    if not home.log_path.exists():
        return ()
    return tuple(entry for entry, _ in read_entries(home.log_path.read_bytes()))


def releases(entries: Iterable[LogEntry]) -> tuple[Seated, ...]:
    """The seats that a log released for, oldest first."""
    return tuple(
        Seated(entry=each, released=each.body, statement=Statement.parse(each.body.statement))
        for each in entries
        if isinstance(each.body, Released)
    )


def appraise_job(
    home: Home, entries: Sequence[LogEntry], job: bytes, now: int
) -> tuple[Appraisal, ...]:
    """Appraise again all that is known of a job: one verdict for each seat and policy, in order."""
    seated = {each.name: each for each in releases(entries) if each.statement.job == job}
    names = sorted(set(seated) | set(kept_seats(home.folder, job)))
    found: list[Appraisal] = []
    for name in names:
        found.extend(appraise_seat(home, seated.get(name), name, now))
    return tuple(found)


def appraise_seat(
    home: Home, seat: Seated | None, name: SeatName, now: int
) -> tuple[Appraisal, ...]:
    """Appraise one seat's kept evidence again, under each policy that was used.

    What was refused is held against every policy of this home: the log names none for it.
    """
    kept = EvidenceFolder(home.folder).find(name)
    policies = home.appraisal_policies()
    if seat is not None:
        used = [policies.get(digest) for digest in dict.fromkeys(seat.released.policies)]
        if kept is not None and kept.refused is not None:
            kept = None  # a later try in the same seat, by other keys: it was refused, rightly
    else:
        used = list(policies.values())
    chosen = [policy for policy in used if policy is not None]
    if kept is None or not chosen:
        missing = "no evidence is kept of it" if kept is None else "its policy is not in this home"
        return (_empty(name, seat, missing, now),)
    releases = home.releases()
    return tuple(
        appraise_kept(kept, policy, home.config.market, seat, now, releases) for policy in chosen
    )


def _empty(name: SeatName, seat: Seated | None, words: str, now: int) -> Appraisal:
    job, generation, rank = name
    return Appraisal(
        job=job,
        generation=generation,
        rank=rank,
        policy=None,
        simulated=False,
        platform="",
        chip=None if seat is None else seat.released.chip_id,
        image=None,
        lines=(),
        made_at=now,
        entry=None if seat is None else seat.entry.number,
        words=words,
    )


def appraise_kept(
    kept: KeptEvidence,
    policy: AppraisalPolicy,
    market: bytes,
    seat: Seated | None,
    now: int,
    releases: AcceptedReleases | None = None,
) -> Appraisal:
    """One policy's verdict over kept evidence at `now` (Unix milliseconds).

    `releases` are what this home took from a log of images; None, as in a transcript: of none.

    (1) Evidence against policy, by the verifier. (2) The launch document says what the statement
    says. (3) What the log shows: this statement, an image that the job names, a lineage of the
    roots' kind, and the very verdict of that day, made again with that day's clock.
    """
    bundle = kept.bundle
    statement = Statement.parse(bundle.statement)
    then, _ = _verify(bundle, statement, policy, releases, kept.decided_at)
    result, checks = _verify(bundle, statement, policy, releases, now)  # (1)
    if result is None and then is not None:  # nothing but the clock is another
        wanted = "certificates and lists that are good still"
        result, checks = then, (line("time", checks[0].found, wanted, good=False),)
    checks = (*checks, _check_launch(bundle, statement, market))  # (2)
    if seat is not None:  # (3)
        checks += _check_against_log(statement, result, then, policy, seat)
    lines = [_line(check) for check in checks]
    lines.sort(key=lambda each: _ORDER.index(each.outcome))
    return Appraisal(
        job=statement.job,
        generation=statement.generation,
        rank=statement.rank,
        policy=policy.digest,
        simulated=policy.kind is RootKind.SIMULATED,
        platform=bundle.platform,
        chip=None if result is None else result.chip_id,
        image=None if result is None else result.measurement,
        lines=tuple(lines),
        made_at=now,
        entry=None if seat is None else seat.entry.number,
        words="" if kept.refused is None else f"refused on the day: {kept.refused}",
    )


def _verify(
    bundle: EvidenceBundle,
    statement: Statement,
    policy: AppraisalPolicy,
    releases: AcceptedReleases | None,
    now: int,
) -> tuple[AttestationResult | None, tuple[CheckLine, ...]]:
    try:
        released = None if releases is None else releases.values(policy, now)
    except RefusedError as error:
        return None, (line("released-images", error, "a release that counts", good=False),)
    try:
        result = verify_evidence(
            Evidence.of(bundle),
            policy,
            Expected.of(statement),
            now=dt.datetime.fromtimestamp(now / 1000, dt.UTC),
            released=released,
        )
    except EvidenceSignatureError as error:
        wanted = "a signature and a chain that hold under a root of the policy"
        return None, (line("evidence-signature", error, wanted, good=False),)
    except (EvidenceError, BlindhostError) as error:
        return None, (line("evidence-form", error, "evidence of a known form", good=False),)
    return result, result.checks


def _check_launch(bundle: EvidenceBundle, statement: Statement, market: bytes) -> CheckLine:
    wanted = "the measured launch document, metered by this home's market"
    try:
        check_launch(bundle, statement, market)
    except RefusedError as error:
        return line("launch-document", error, wanted, good=False)
    return line("launch-document", f"{statement.launch.hex()[:16]}…", wanted, good=True)


def _check_against_log(
    statement: Statement,
    result: AttestationResult | None,
    then: AttestationResult | None,
    policy: AppraisalPolicy,
    seat: Seated,
) -> tuple[CheckLine, ...]:
    job = verify_signed(JobManifest, seat.released.job, signer=None).document
    again = None if then is None else then.digest
    logged = dict(zip(seat.released.policies, seat.released.verdicts, strict=False))
    wanted = logged.get(policy.digest)
    image = None if result is None else result.measurement
    kind = KINDS[lineage_kind(seat.released.model)]
    return (
        line(
            "statement-in-log",
            statement.digest.hex(),
            seat.statement.digest.hex(),
            good=statement == seat.statement,
        ),
        line(
            "image-in-job",
            "unknown" if image is None else image.hex(),
            " or ".join(each.hex() for each in job.images[:4]),
            good=image in job.images,
        ),
        line("lineage-kind", policy.kind.value, kind.value, good=policy.kind is kind),
        line(
            "verdict-in-log",
            "none" if again is None else again.hex(),
            "none" if wanted is None else wanted.hex(),
            good=again is not None and again == wanted,
        ),
    )


def _line(check: CheckLine) -> Line:
    """A verifier's line as a person reads it.

    *Not checked* there means demanded and impossible, which fails. *Not demanded* is told apart:
    what was looked at and not judged, and what nobody looked at.
    """
    found = check.found
    match check.verdict:
        case Verdict.ACCEPTED:
            outcome = Outcome.PASSED
        case Verdict.NOT_DEMANDED if found == NOT_LOOKED_AT:
            outcome = Outcome.NOT_CHECKED
        case Verdict.NOT_DEMANDED:
            outcome = Outcome.NOT_DEMANDED
        case _:
            outcome = Outcome.FAILED
    group = _GROUPS.get(check.id, "cpu")
    return Line(id=check.id, group=group, outcome=outcome, found=found, wanted=check.wanted)


# --- would keys be released to an offer ----------------------------------------------------------


class Would(enum.StrEnum):
    """What a broker would say to an offer. It never says yes: evidence does."""

    REFUSE = "would refuse"
    UNKNOWN = "not known"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What one custodian's policy says of an offer."""

    custodian: bytes
    would: Would
    check: str
    """The check that decides, or that is still open."""
    words: str


def preview_offer(holdings: Holdings, offer: OfferView, now: int) -> Preview:
    """Whether one's own broker could release to a machine of this offer.

    It refuses where each appraisal policy of this home refuses; with none at all nothing is known.
    """
    said = [
        _preview_policy(policy, offer, now)
        for digest, policy in holdings.appraisal_policies.items()
        if any(each.document.appraisal_policy == digest for each in holdings.policies)
    ]
    custodian = holdings.identity
    if not said:
        text = "this home has no policy yet"
        return Preview(custodian=custodian, would=Would.UNKNOWN, check="policy", words=text)
    if all(check for check, _ in said):
        check, words = said[0]
        return Preview(custodian=custodian, would=Would.REFUSE, check=check, words=words)
    text = "the machine's evidence decides: chip, firmware, image"
    return Preview(custodian=custodian, would=Would.UNKNOWN, check="evidence", words=text)


def _preview_policy(policy: AppraisalPolicy, offer: OfferView, now: int) -> tuple[str, str]:
    """The check that refuses, and why; two empty texts: none that an offer shows."""
    platform = offer.draft.platform
    known = [each.value for each in policy.platforms]
    if platform not in known:
        return "platform", f"platform {platform}, and the policy allows {' or '.join(known)} alone"
    if policy.expires_at is not None and policy.expires_at <= now:
        return "time", "the policy has expired"
    return "", ""


def preview_other(policy: UsePolicy, buyer: bytes) -> Preview:
    """What another custodian's published use policy says to this buyer's jobs."""
    allowed = policy.jobs_signed_by
    if allowed is not None and buyer not in allowed:
        text = "its use policy names other buyers"
        return Preview(
            custodian=policy.custodian, would=Would.REFUSE, check="use-policy", words=text
        )
    text = "its appraisal policy is its own: it decides on evidence"
    return Preview(custodian=policy.custodian, would=Would.UNKNOWN, check="evidence", words=text)
