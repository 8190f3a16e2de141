"""What this host refuses, whoever asks: pure checks, each raises `HostRefusedError` with a word.

Three moments:
- **Start**: `check_user`, `check_identity_file`, `check_version`, `check_clock`, `check_enrolment`.
  Plain http beyond loopback is refused where an address is made (`market_client.MarketAddress`).
- **A lease is seen**: `LeaseGate.check_lease`. The market is believed neither in price nor in time
  nor in what is free: floor, terms and windows are the host's own.
- **Its briefing is here, nothing is launched**: `LeaseGate.check_briefing`, from documents that the
  job's parties signed.

A refused lease is ended under that word, reported once, and logged. What concerns the machine
itself (virtual host, GPU modes, debug policy, launcher's socket) is checked where it is launched.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import stat
from collections.abc import Callable, Sequence
from typing import Final

from marketplace.wire import LeaseBriefing, LeaseView, OfferDraft
from provider_agent.errors import AgentError
from provider_agent.lifecycle import LIVE
from trust.artifacts import Manifest
from trust.custody import LineageKind, lineage_kind
from trust.errors import BlindhostError
from trust.identity import verify_signed
from trust.jobs import JobManifest

CLOCK_MS_MAX: Final = 60_000
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")


class HostRefusedError(AgentError):
    """The host says no. `word` is for programs: it is the reason that the market is told."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(f"{word}: {text}")
        self.word = word


class Enrolment(enum.StrEnum):
    """What a host was enrolled as, once: the two are never mixed in one home."""

    REAL = "real"
    SIMULATED = "simulated"


# --- at the start --------------------------------------------------------------------------------


def check_user(uid: int, enrolment: Enrolment) -> str | None:
    """Refuse to run as root on real hardware: the launcher has privilege, the agent needs none.

    On the simulated platform it is allowed, because a sandbox without user namespaces needs it, and
    the answer is what to say then.
    """
    if uid != 0:
        return None
    if enrolment is Enrolment.REAL:
        raise HostRefusedError("root", "the agent runs as root; wanted: a user of its own")
    return "runs as root, allowed on the simulated platform alone"


def check_identity_file(mode: int) -> None:
    """Refuse an identity that anybody but its owner can read or write. `mode` as of stat(2)."""
    others = stat.S_IMODE(mode) & 0o077
    if others:
        raise HostRefusedError(
            "open-identity", f"the key's mode is {stat.S_IMODE(mode):04o}; wanted 0600"
        )


def check_clock(market_now: int, now: int) -> None:
    """Refuse a clock that is over a minute off the market's signed one. Unix milliseconds.

    A lease's times, receipts and windows would all be judged by it.
    """
    off = now - market_now
    if abs(off) > CLOCK_MS_MAX:
        raise HostRefusedError("clock", f"{off} ms off the market's; at most {CLOCK_MS_MAX}")


def check_version(version: str, newest: str | None) -> str:
    """Refuse an agent older than the newest that ran in this home: files may be newer than it.

    An update that was rolled back by its updater removes its note first. Returns what to note.
    """
    mine = _version(version)
    if newest is not None and mine < _version(newest):
        raise HostRefusedError("older-version", f"this is {version}, {newest} ran here before")
    return version


def check_enrolment(enrolled: Enrolment | None, found: Enrolment) -> Enrolment:
    """Refuse a home that was enrolled as the other kind. Returns what to note."""
    if enrolled is not None and enrolled is not found:
        raise HostRefusedError(
            "other-enrolment", f"this home is enrolled as {enrolled}, the platform is {found}"
        )
    return found


def _version(text: str) -> tuple[int, ...]:
    found = _VERSION.match(text)
    if found is None:
        raise HostRefusedError("older-version", f"{text[:32]!r} is no version")
    return tuple(int(each) for each in found.groups())


# --- a lease -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseGate:
    """What the host holds a lease against. It never asks the market for its own terms."""

    draft: Callable[[], OfferDraft]
    """The offer as this host posted it."""
    enrolment: Enrolment
    floor: Callable[[], int | None] = lambda: None
    """Microcredits per GPU-hour that no price of this host goes below; None: the offer's own."""
    closed: Callable[[int], str | None] = lambda _now: None
    """Why no lease is taken at a moment, a maintenance window say; None: one is."""

    def check_lease(self, view: LeaseView, live: Sequence[LeaseView], now: int) -> None:
        """Refuse a lease that was just seen. `live`: what else this host runs.

        (1) It is not in a window in which none is taken. (2) It is of an offer and a machine of
        this host's. (3) It is not below the floor. (4) It begins before the offer's end, and is not
        for longer. (5) No other lease has the machine. Raises HostRefusedError.
        """
        if (reason := self.closed(now)) is not None:  # (1)
            raise HostRefusedError("outside-window", reason)
        draft = self.draft()
        if view.offer != draft.offer or view.gpus > draft.gpus:  # (2)
            raise HostRefusedError(
                "other-offer", f"{view.gpus} GPUs of {view.offer}; {draft.gpus} of {draft.offer}"
            )
        least = self.least(draft)
        price = view.price_microcredits_per_gpu_hour
        if price < least:  # (3)
            raise HostRefusedError("below-floor", f"{price} per GPU-hour; at least {least}")
        if now >= draft.ends_at:  # (4)
            raise HostRefusedError("outside-window", f"the offer ended at {draft.ends_at}")
        if view.deadline is not None and view.deadline > draft.ends_at:
            raise HostRefusedError(
                "longer-than-offer", f"until {view.deadline}; the offer ends at {draft.ends_at}"
            )
        others = [x for x in live if x.lease != view.lease and x.state in LIVE]
        taken = sum(x.gpus for x in others)
        if taken + view.gpus > draft.gpus:  # (5)
            raise HostRefusedError(
                "second-lease", f"{taken} of {draft.gpus} GPUs are leased, {view.gpus} more asked"
            )

    def least(self, draft: OfferDraft) -> int:
        """What a GPU-hour costs here at least: the floor, or without one the ask."""
        if (least := self.floor()) is not None:
            return least
        floor = draft.floor_microcredits_per_gpu_hour
        return draft.ask_microcredits_per_gpu_hour if floor is None else floor

    def check_briefing(self, briefing: LeaseBriefing) -> None:
        """Refuse a job before anything of it is launched.

        (1) Its manifest is signed by the buyer that it names. (2) It wants no more memory and no
        more GPUs than the offer has, and this platform. (3) Its inputs are of the kind that this
        host is enrolled as. Raises HostRefusedError.
        """
        draft = self.draft()
        try:
            signed = verify_signed(JobManifest, briefing.job, signer=None)  # (1)
            if signed.signer != signed.document.buyer:
                raise HostRefusedError("bad-briefing", "the job is not signed by its buyer")
            kinds = {_kind(each) for each in briefing.manifests}
        except HostRefusedError:
            raise
        except BlindhostError as error:
            raise HostRefusedError("bad-briefing", str(error)) from error
        need = signed.document.resources
        if need.memory_mib > draft.memory_mib:  # (2)
            raise HostRefusedError(
                "more-memory", f"{need.memory_mib} MiB wanted, {draft.memory_mib} offered"
            )
        if (need.platform, need.gpus) != (draft.platform, draft.gpus):
            raise HostRefusedError(
                "other-offer",
                f"{need.gpus} GPUs on {need.platform}; {draft.gpus} on {draft.platform}",
            )
        for kind in kinds:  # (3)
            if (kind is LineageKind.SIMULATED) != (self.enrolment is Enrolment.SIMULATED):
                raise HostRefusedError(
                    "other-enrolment",
                    f"{kind.name.lower()} lineages on a host enrolled as {self.enrolment}",
                )


def _kind(signed_manifest: bytes) -> LineageKind:
    core = verify_signed(Manifest, signed_manifest, signer=None).document.core
    kinds = {lineage_kind(each.lineage) for each in core.custodians}
    if len(kinds) != 1:
        raise HostRefusedError("bad-briefing", "real and simulated lineages meet in one artifact")
    return kinds.pop()
