"""`blindhost evidence verify`: one JSON object in, one out, and nothing else is looked at.

Rules (docs/spec/evidence.md §6):
- Hermetic: no network, no clock, no file, no environment. The time is the caller's.
- The decision is `verify_evidence`'s and nobody else's: the same function that a custodian's broker
  calls. Where it stops at a signature, the lines of the checks are shown, and the policy's lines
  are *not checked*.
- What the caller does not expect anything of is *not demanded*, in the line that would have looked.
- Input has every field of the schema and no other; its bytes are base64 (RFC 4648 §4), padded.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from trust.encoding import Json, digest, parse_json
from trust.errors import (
    BlindhostError,
    DocumentError,
    EncodingError,
    EvidenceFormatError,
    EvidenceSignatureError,
)
from trust.evidence.claims import Platform
from trust.evidence.snp import parse_snp_report
from trust.evidence.tdx import parse_tdx_quote
from trust.jobs import LaunchDocument
from trust.messages import GpuEvidence, Statement
from trust.verifier import gpu_appraisal, nvidia, snp, snp_appraisal, tdx, tdx_appraisal
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.gpu_appraisal import appraise_gpus
from trust.verifier.intel_collateral import parse_tdx_endorsements
from trust.verifier.nvidia import judge_gpu
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import CheckLine, Verdict, line, not_demanded
from trust.verifier.roots import PinnedRoot
from trust.verifier.snp import check_snp
from trust.verifier.tdx import check_tdx

INPUT_BYTES_MAX: Final = 8 << 20  # eight GPUs and four switches, with their manifests, in base64
ENDORSEMENTS_MAX: Final = 128
ROOTS_MAX: Final = 64
GPU_ALONE: Final = "gpu"
"""A platform of this tool only: NVIDIA's evidence without a CPU's. No broker takes it."""

_NOT_SHOWN: Final = frozenset({"raw", "signed_bytes", "encoded", "to_be_signed"})
"""Fields that hold again what other fields say."""

CHECK_NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **snp.CHECK_NUMBERS,
        **snp_appraisal.CHECK_NUMBERS,
        **tdx.CHECK_NUMBERS,
        **tdx_appraisal.CHECK_NUMBERS,
        **nvidia.CHECK_NUMBERS,
        **gpu_appraisal.CHECK_NUMBERS,
        "gpu": 39,
        "gpu-in-statement": 39,
        "root": 40,
        "time": 41,
    }
)
"""Which of the field's 43 checks a line is; a line that is none of them has no number."""


class Exit(enum.IntEnum):
    """What the process ends with."""

    ACCEPTED = 0
    REFUSED = 10
    MALFORMED = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The input, parsed; what is in `evidence` is not."""

    now: dt.datetime
    evidence: Evidence
    statement: Statement | None
    launch: bytes | None
    policy: AppraisalPolicy
    report_data: bytes | None
    launch_expected: bytes | None
    gpu_nonce: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The output."""

    exit: Exit
    error: str | None
    """Why it is malformed, or at which signature it ends; None otherwise."""
    checks: tuple[CheckLine, ...]
    claims: Json
    collateral: tuple[tuple[str, bytes], ...]
    policy: bytes | None
    expires_at: dt.datetime | None

    def to_json(self) -> dict[str, Json]:
        """As docs/spec/evidence.md §6.2 has it."""
        verdicts = {Exit.ACCEPTED: "accepted", Exit.REFUSED: "refused", Exit.MALFORMED: "malformed"}
        return {
            "version": 1,
            "verdict": verdicts[self.exit],
            "error": self.error,
            "checks": [_line_json(each) for each in self.checks],
            "claims": self.claims,
            "collateral": [{"kind": k, "sha256": sha.hex()} for k, sha in self.collateral],
            "policy": None if self.policy is None else self.policy.hex(),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
        }


def verify_json(data: bytes) -> Answer:
    """Answer one input. Raises nothing that an input can cause."""
    try:
        request = parse_request(data)
        return _verify(request)
    except BlindhostError as error:
        return _malformed(f"{error}")


# --- input ---------------------------------------------------------------------------------------


def parse_request(data: bytes) -> Request:
    """Parse the input completely. Raises BlindhostError."""
    if len(data) > INPUT_BYTES_MAX:
        raise EncodingError(f"input of {len(data)} bytes; at most {INPUT_BYTES_MAX}")
    value = _object(
        parse_json(data),
        "input",
        {"version", "now", "evidence", "endorsements", "roots", "policy", "expected"},
    )
    if value["version"] != 1 or value["version"] is True:
        raise DocumentError(f"input.version is {value['version']!r}, wanted 1")
    shown = _object(
        value["evidence"], "evidence", {"platform", "report", "gpu", "statement", "launch"}
    )
    wanted = _object(value["expected"], "expected", {"report_data", "launch", "gpu_nonce"})
    platform = _text(shown["platform"], "evidence.platform")
    statement = _bytes(shown["statement"], "evidence.statement")
    report = _bytes(shown["report"], "evidence.report")
    if (report is None) is not (platform == GPU_ALONE):
        raise DocumentError("evidence.report: wanted of every platform but gpu, and not of that")
    expectations = {name: _bytes(each, f"expected.{name}") for name, each in wanted.items()}
    if statement is not None and any(each is not None for each in expectations.values()):
        raise DocumentError("expected: a statement says what is expected, so all three are null")
    roots = None if value["roots"] is None else _roots(value["roots"])
    return Request(
        now=_moment(value["now"]),
        evidence=Evidence(
            platform=platform,
            report=report or b"",
            gpu=_bytes(shown["gpu"], "evidence.gpu"),
            endorsements=_endorsements(value["endorsements"]),
        ),
        statement=None if statement is None else Statement.parse(statement),
        launch=_bytes(shown["launch"], "evidence.launch"),
        policy=_policy(value["policy"], roots),
        report_data=expectations["report_data"],
        launch_expected=expectations["launch"],
        gpu_nonce=expectations["gpu_nonce"],
    )


def _policy(value: Json, roots: tuple[PinnedRoot, ...] | None) -> AppraisalPolicy:
    """The policy, under the caller's roots where there are any."""
    if not isinstance(value, dict):
        raise DocumentError("policy: an object is wanted")
    if roots is not None:
        value = {**value, "roots": [cast(Json, each.to_json()) for each in roots]}
    return AppraisalPolicy.from_json(value)


def _roots(value: Json) -> tuple[PinnedRoot, ...]:
    """Roots with fingerprints in hex, as they stand in every paper about them."""
    if not isinstance(value, list) or not 1 <= len(value) <= ROOTS_MAX:
        raise DocumentError(f"roots: a list of 1 to {ROOTS_MAX} is wanted")
    roots = []
    for each in value:
        found = _object(each, "root", {"kind", "anchor", "fingerprint"})
        fingerprint = _text(found["fingerprint"], "root.fingerprint")
        try:
            raw = bytes.fromhex(fingerprint)
        except ValueError as error:
            raise DocumentError("root.fingerprint: hex is wanted") from error
        encoded = base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
        roots.append(PinnedRoot.from_json({**found, "fingerprint": encoded}))
    return tuple(roots)


def _endorsements(value: Json) -> tuple[tuple[str, bytes], ...]:
    if not isinstance(value, list) or len(value) > ENDORSEMENTS_MAX:
        raise DocumentError(f"endorsements: a list of at most {ENDORSEMENTS_MAX} is wanted")
    pairs = []
    for each in value:
        found = _object(each, "endorsement", {"kind", "content"})
        content = _bytes(found["content"], "endorsement.content")
        if content is None:
            raise DocumentError("endorsement.content: bytes are wanted")
        pairs.append((_text(found["kind"], "endorsement.kind"), content))
    return tuple(pairs)


def _object(value: Json, where: str, names: set[str]) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise DocumentError(f"{where}: an object is wanted")
    if set(value) != names:
        strange = min(set(value) ^ names)
        word = "unknown" if strange in value else "missing"
        raise DocumentError(f"{where}: {word} field {strange[:32]!r}")
    return value


def _text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise DocumentError(f"{where}: a text is wanted")
    return value


def _bytes(value: Json, where: str) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(_text(value, where), validate=True)
    except ValueError as error:  # binascii.Error is one, and so are characters outside of ASCII
        raise DocumentError(f"{where}: base64 (RFC 4648 §4) is wanted") from error


def _moment(value: Json) -> dt.datetime:
    text = _text(value, "now")
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise DocumentError(f"now: a time of RFC 3339 is wanted, got {text[:40]!r}") from error
    if moment.tzinfo is None:
        raise DocumentError("now: a time with its zone is wanted")
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise DocumentError("now: a time between the years 1 and 9999 is wanted") from error


# --- verdict -------------------------------------------------------------------------------------


def _verify(request: Request) -> Answer:
    policy = request.policy
    if request.evidence.platform == GPU_ALONE:
        return _verify_gpus(request)
    about = _check_statement(request)
    expected, unasked = _expected(request)
    try:
        result = verify_evidence(request.evidence, policy, expected, now=request.now)
    except EvidenceSignatureError as error:
        lines = (*about, *_lines_of_cpu(request.evidence, policy, request.now), _NOT_REACHED)
        return _answer(Exit.REFUSED, lines, error=f"{error}", claims=None, policy=policy.digest)
    lines = tuple(
        not_demanded(each.id, each.found) if each.id in unasked else each
        for each in (*about, *result.checks)
    )
    good = bool(lines) and all(each.passed for each in lines)
    claims = {
        "platform": result.platform.value,
        "kind": result.kind.value,
        "product": result.product,
        "chip_id": _hex(result.chip_id),
        "ppid": _hex(result.ppid),
        "image": result.measurement.hex(),
        "gpus": to_json(result.gpus),
        "report": to_json(parsed_report(request.evidence.platform, request.evidence.report)),
    }
    return Answer(
        exit=Exit.ACCEPTED if good else Exit.REFUSED,
        error=None,
        checks=lines,
        claims=cast(Json, claims),
        collateral=tuple((each.kind, each.sha256) for each in result.collateral),
        policy=policy.digest,
        expires_at=result.expires_at,
    )


_NOT_REACHED: Final = CheckLine(
    id="policy",
    found="evidence that no pinned root stands behind",
    wanted="evidence that is whole and genuine first",
    verdict=Verdict.NOT_CHECKED,
)


def _verify_gpus(request: Request) -> Answer:
    """GPU evidence by itself, for whoever tests a verifier of it."""
    if request.evidence.gpu is None or request.policy.gpu is None:
        raise DocumentError("evidence.gpu and policy.gpu: wanted of GPUs alone")
    try:
        parsed = GpuEvidence.parse(request.evidence.gpu)
    except EncodingError as error:
        raise EvidenceFormatError(f"GPU evidence: {error}") from error
    if request.gpu_nonce is None:
        raise DocumentError("expected.gpu_nonce: bytes are wanted of GPUs alone")
    if len(request.gpu_nonce) != 32:
        raise DocumentError(f"expected.gpu_nonce: {len(request.gpu_nonce)} bytes, wanted 32")
    given = (
        parsed,
        request.evidence.endorsements,
        request.policy.roots,
        request.gpu_nonce,
        request.now,
    )
    lines, verified = judge_gpu(*given)
    if verified is None:
        return _answer(
            Exit.REFUSED,
            (*lines, _NOT_REACHED),
            error=None,
            claims=None,
            policy=request.policy.digest,
        )
    lines = (*lines, *appraise_gpus(verified, request.policy.gpu, request.now))
    good = all(each.passed for each in lines)
    return Answer(
        exit=Exit.ACCEPTED if good else Exit.REFUSED,
        error=None,
        checks=lines,
        claims={"platform": GPU_ALONE, "gpus": to_json(verified.devices)},
        collateral=tuple((each.kind, each.sha256) for each in verified.collateral),
        policy=request.policy.digest,
        expires_at=verified.expires_at,
    )


def _check_statement(request: Request) -> tuple[CheckLine, ...]:
    """(9) of the design: the launch document is the statement's, and says the same as it."""
    if request.statement is None:
        if request.launch is None:
            return ()
        raise DocumentError("evidence.launch: wanted beside a statement only")
    statement = request.statement
    if request.launch is None:
        missing = Verdict.NOT_CHECKED
        words = "no launch document"
        return (CheckLine(id="launch-digest", found=words, wanted="one", verdict=missing),)
    found, wanted = digest(request.launch), statement.launch
    lines = [line("launch-digest", found.hex(), wanted.hex(), good=found == wanted)]
    try:
        launch = LaunchDocument.parse(request.launch)
    except BlindhostError as error:
        return (*lines, line("launch-form", error, "a document of its schema", good=False))
    lines.append(line("launch-form", "a launch document", "one", good=True))
    for name in ("job", "lease", "generation", "rank", "ranks"):
        said, stated = getattr(launch, name), getattr(statement, name)
        lines.append(line(f"launch-{name}", _shown(said), _shown(stated), good=said == stated))
    return tuple(lines)


def _expected(request: Request) -> tuple[Expected, frozenset[str]]:
    """What is expected, and the lines of what is not: those look at the evidence's own words."""
    if request.statement is not None:
        return Expected.of(request.statement), frozenset()
    report = parsed_report(request.evidence.platform, request.evidence.report)
    tdx_body = getattr(report, "body", None)
    unasked: set[str] = set()
    report_data, launch = request.report_data, request.launch_expected
    if report_data is None:
        unasked |= {"report-data", "tdx-report-data"}
        report_data = (tdx_body or report).report_data
    if launch is None:
        unasked |= {"host-data", "tdx-mrconfigid"}
        launch = report.host_data if tdx_body is None else tdx_body.mr_config_id
    unasked.add("gpu-in-statement")
    stated = None if request.evidence.gpu is None else digest(request.evidence.gpu)
    nonce = request.gpu_nonce
    if nonce is None:
        if request.evidence.gpu is not None and request.policy.gpu is not None:
            raise DocumentError("expected.gpu_nonce: bytes are wanted where GPUs are demanded")
        nonce = bytes(32)
    expected = Expected(
        report_data=report_data, launch=launch, gpu_nonce=nonce, gpu_evidence=stated
    )
    return expected, frozenset(unasked)


def _lines_of_cpu(
    evidence: Evidence, policy: AppraisalPolicy, now: dt.datetime
) -> tuple[CheckLine, ...]:
    """All lines of the CPU's verifier, which refused: nothing is believed by it."""
    of_cpu = [each for each in evidence.endorsements if not each[0].startswith(("gpu-", "fac"))]
    if evidence.platform == Platform.TDX.value:
        quote = parse_tdx_quote(evidence.report)
        return check_tdx(quote, parse_tdx_endorsements(of_cpu), policy.roots, now)
    report = parse_snp_report(evidence.report)
    return check_snp(report, parse_snp_endorsements(of_cpu), policy.roots, now)


def parsed_report(platform: str, report: bytes) -> Any:
    """The report's own type. Raises EvidenceFormatError, SizeLimitError."""
    if platform == Platform.TDX.value:
        return parse_tdx_quote(report)
    if platform == Platform.SEV_SNP.value:
        return parse_snp_report(report)
    raise EvidenceFormatError(f"platform {platform[:32]!r}, wanted sev-snp, tdx or gpu")


# --- output --------------------------------------------------------------------------------------


def to_json(value: Any) -> Json:
    """Any of our values for a person or a program: bytes in hex, enums by value, times in UTC."""
    match value:
        case enum.Enum():
            return to_json(value.value)
        case None | bool() | int() | str():
            return value
        case bytes():
            return value.hex()
        case dt.datetime():
            return value.isoformat()
        case Mapping():
            return {str(to_json(key)): to_json(each) for key, each in value.items()}
        case list() | tuple() | frozenset() | set():
            return [to_json(each) for each in value]
        case _ if dataclasses.is_dataclass(value):
            return {
                each.name: to_json(getattr(value, each.name))
                for each in dataclasses.fields(value)
                if each.name not in _NOT_SHOWN
            }
        case _:
            return str(value)


def _line_json(each: CheckLine) -> Json:
    return {
        "id": each.id,
        "number": CHECK_NUMBERS.get(each.id),
        "found": each.found,
        "wanted": each.wanted,
        "verdict": each.verdict.value,
    }


def _answer(
    code: Exit,
    checks: Sequence[CheckLine],
    *,
    error: str | None,
    claims: Json,
    policy: bytes | None,
) -> Answer:
    return Answer(
        exit=code,
        error=error,
        checks=tuple(checks),
        claims=claims,
        collateral=(),
        policy=policy,
        expires_at=None,
    )


def _malformed(error: str) -> Answer:
    return _answer(Exit.MALFORMED, (), error=error, claims=None, policy=None)


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
