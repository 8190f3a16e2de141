"""One round: see what is due, ask for it, keep what came; and say what is missing.

Rules:
- What is good and not due is not asked for. A service that fails costs its own objects alone: what
  is here and has not ended stays, and is carried.
- After a service that refused to answer, its other objects are not asked for in the same round.
- What is missing is told with since when, why, and what to do: `refusal`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from provider_agent.endorsements import shapes
from provider_agent.endorsements.asks import Ask, asks_of, names_of, ocsp_asks
from provider_agent.endorsements.errors import EndorsementError, FetchError, MissingError
from provider_agent.endorsements.fetch import Fetcher
from provider_agent.endorsements.services import Services
from provider_agent.endorsements.store import Kept, State, Store
from provider_agent.endorsements.subjects import Wanted
from trust.messages import ENDORSEMENTS_MAX, Endorsement

IMPORTED: Final = "import"
_GONE: Final = frozenset({"no-answer", "rate-limited"})
"""Of a whole service, and not of one object."""

REMEDY: Final = (
    "Do: blindhost-agent endorsements fetch, where the vendor's service answers; or fetch on a "
    "machine that reaches it, and blindhost-agent endorsements import NAME FILE here"
)

_log = logging.getLogger("blindhost.agent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round did."""

    asked: int
    kept: int
    """Files that were written."""
    objects: tuple[Kept, ...]
    """Everything that is wanted, as it is now."""


async def fetch_round(
    store: Store, wanted: Wanted, services: Services, fetcher: Fetcher, now: dt.datetime
) -> Round:
    """Ask for what is due. A service's failure is noted, not raised. Raises OSError.

    (1) Everything but OCSP. (2) OCSP, for which RIMs must be here. (3) What is no longer wanted
    goes.
    """
    visit = _Visit(store=store, fetcher=fetcher, now=now)
    for ask in asks_of(wanted, services):  # (1)
        await visit.ask(ask)
    if wanted.gpu is not None:
        for ask in ocsp_asks(wanted.gpu, rims_here(store, now), services):  # (2)
            await visit.ask(ask)
    for platform, names in names_of(wanted, rims_here(store, now)).items():  # (3)
        store.forget_others(platform, names)
    return Round(asked=visit.asked, kept=visit.kept, objects=objects_of(store, wanted, now))


@dataclass(kw_only=True, slots=True)
class _Visit:
    """What one round knows on its way."""

    store: Store
    fetcher: Fetcher
    now: dt.datetime
    asked: int = 0
    kept: int = 0
    gone: dict[str, str] = field(default_factory=dict)
    """Services that do not answer, and what they said."""

    async def ask(self, ask: Ask) -> None:
        """Ask if it is due; keep the answer, or note the trouble."""
        store, now, service = self.store, self.now, ask.service.name
        if not any(store.get(ask.platform, each, now).is_due(now) for each in ask.names):
            return
        if service in self.gone:
            self._trouble(ask, self.gone[service])
            return
        self.asked += 1
        try:
            for name, content in ask.read(await self.fetcher.fetch(ask)):
                store.put(ask.platform, name, content, source=service, now=now)
                self.kept += 1
        except EndorsementError as error:
            _log.warning("endorsements service=%s %s", service, error)
            self._trouble(ask, str(error))
            if isinstance(error, FetchError) and error.code in _GONE:
                self.gone[service] = str(error)

    def _trouble(self, ask: Ask, text: str) -> None:
        for name in ask.names:
            self.store.trouble(ask.platform, name, text, self.now)


def rims_here(store: Store, now: dt.datetime) -> tuple[bytes, ...]:
    """Contents of the RIMs that are here and of their kind."""
    names = (each for each in store.names(shapes.GPU) if shapes.kind_of(each) == shapes.RIM)
    found = (store.get(shapes.GPU, each, now) for each in names)
    return tuple(each.content for each in found if each.life is not None)


def objects_of(store: Store, wanted: Wanted, now: dt.datetime) -> tuple[Kept, ...]:
    """Everything that is wanted, whether it is here or not."""
    return tuple(
        store.get(platform, name, now)
        for platform, names in names_of(wanted, rims_here(store, now)).items()
        for name in names
    )


def import_file(store: Store, name: str, content: bytes, now: dt.datetime) -> None:
    """Keep an object that somebody brought. Raises EndorsementError."""
    platform = shapes.platform_of(shapes.kind_of(shapes.check_name(name)))
    store.put(platform, name, content, source=IMPORTED, now=now)


# --- what travels --------------------------------------------------------------------------------


def carried(store: Store, platforms: Iterable[str], now: dt.datetime) -> tuple[Endorsement, ...]:
    """What goes with evidence, in a fixed order: each object once. Raises MissingError.

    What `wanted.json` names must be here; without it, a CPU's kinds must, and GPUs' are as found.
    """
    wanted = store.wanted() or Wanted()
    named = names_of(wanted, rims_here(store, now))
    objects = []
    for platform in platforms:
        names = named.get(platform) or _fixed(store, platform)
        if not names:
            raise MissingError("no-endorsements", f"{platform}: nothing is here. {REMEDY}")
        objects += [store.get(platform, each, now) for each in names]
    missing = [each for each in objects if not each.state.carried]
    if missing:
        raise refusal(missing)
    if len(objects) > ENDORSEMENTS_MAX:
        raise MissingError(
            "too-many", f"{len(objects)} endorsements, at most {ENDORSEMENTS_MAX} travel"
        )
    return tuple(
        Endorsement(kind=shapes.kind_of(each.name), content=each.content) for each in objects
    )


def _fixed(store: Store, platform: str) -> tuple[str, ...]:
    if platform == shapes.TDX:
        return shapes.TDX_KINDS
    here = store.names(platform)
    if platform == shapes.GPU:
        return here
    return shapes.VLEK_KINDS if "vlek" in here and "vcek" not in here else shapes.VCEK_KINDS


def refusal(missing: Iterable[Kept]) -> MissingError:
    """What is missing, since when and why, and what to do."""
    parts = []
    for each in missing:
        text = f"{each.platform}/{each.name}: {_state(each)}"
        if each.problem is not None:
            text += f"; not fetched since {_day(each.problem_since)}: {each.problem}"
        parts.append(text)
    shown = parts[:4] + ([f"and {len(parts) - 4} more"] if len(parts) > 4 else [])
    return MissingError("no-endorsements", ". ".join((*shown, REMEDY)))


def _state(each: Kept) -> str:
    if each.state is State.ENDED and each.life is not None:
        return f"ended {_day(each.life.ends)}"
    if each.state is State.ABSENT:
        return "not here" if each.problem_since is None else "never here"
    return each.state.value


def _day(moment: dt.datetime | None) -> str:
    return "an unknown day" if moment is None else moment.strftime("%Y-%m-%d %H:%M UTC")
