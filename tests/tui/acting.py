"""A hub that answers as a good market would, and hands that act on what is drawn alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from rich.cells import cell_len
from textual.events import Paste

from tests.tui.rig import BALANCE, NOW, ONLINE, SETUP, USUAL, Rig, ScriptedHub
from tests.tui.scenes import chat, job, jobs, keys, money, new_job, offers, start, trust
from tui import commands, facts
from tui.app import BlindhostApp
from tui.commands import Command, Kind
from tui.drafts import DraftsPort
from tui.facts import Fact

LOOSE = "gpu=H100 price<=0.94"
TIGHT = "gpu=H100 price<=0.50"
NEW_HOME = dataclasses.replace(start.HOME, data=())


def answers(command: Command) -> Iterable[Fact]:
    """What a hub would tell, of the made-up scenes."""
    match command:
        case commands.Look(subject=subject):
            return looked(subject)
        case commands.Search(query=query):
            return found(query)
        case commands.MakeKeys():
            return (ONLINE, BALANCE, NEW_HOME)
        case commands.CheckDataset(path=path):
            return (dataclasses.replace(new_job.checked(), path=path),)
        case commands.SealDataset(path=path):
            sealed = dataclasses.replace(new_job.sealing("done", 8_100_000), path=path)
            data = facts.SealedData(
                id=sealed.artifact, name="rows", rows=12_400, bytes=8_100_000, sealed_at=NOW
            )
            return (sealed, dataclasses.replace(NEW_HOME, data=(data,), as_of=NOW + 1))
        case commands.WantQuote(draft=draft):
            return (new_job.quote(draft),)
        case commands.Submit(id=name):
            return (new_job.result(name),)
        case commands.CloseJob():
            return (dataclasses.replace(jobs.HEAD, state="cancelled", as_of=NOW + 1),)
        case commands.Ask():
            return replied(command)
        case commands.WriteStatement(id=name, path=path):
            return (facts.Exported(as_of=NOW, command=name, path=path, words="statement written"),)
        case commands.Answer(consent=consent):
            held = dataclasses.replace(keys.CONSENT, mine_to_answer=False, as_of=NOW + 1)
            assert consent == held.id
            return (held,)
    return ()


def looked(subject: commands.Subject) -> Iterable[Fact]:
    match subject.kind:
        case Kind.JOBS:
            return jobs.HEADS
        case Kind.JOB if subject.of == job.JOB:
            return job.RUNNING
        case Kind.TRUST if subject.of == job.JOB:
            return (trust.FIRST, trust.PASSED, *trust.RELEASES)
        case Kind.MONEY:
            return (*money.ENTRIES, money.receipt(1))
        case Kind.CHAT:
            return (chat.head(chat.BASE), chat.head(chat.TUNED))
        case Kind.KEYS:
            return [each for each in keys.ALL if each not in USUAL]
    return ()


def found(query: str) -> Iterable[Fact]:
    """Of the tight query nothing, of any other one a page."""
    if query != TIGHT:
        return (offers.page(query, total=1 if query == LOOSE else 361),)
    steps = (
        offers.step("gpu=H100", 7_865, "gpu in (H100,H200)", 3_100, 1_400_000),
        offers.step("price<=0.50", 0, "price<=0.94", 1, 939_000),
    )
    funnel = dataclasses.replace(offers.FUNNEL, query=query, steps=steps, nearest_miss="0.939 cr/h")
    return (funnel, offers.page(query, total=0))


def replied(ask: commands.Ask) -> Iterable[Fact]:
    text = chat.SAID[ask.model]
    end = facts.TurnEnd(
        as_of=NOW,
        turn=ask.turn,
        model=ask.model,
        why=facts.TurnWhy.STOP,
        words="",
        tokens=9,
        milliseconds=300,
    )
    return (facts.Delta(as_of=NOW, turn=ask.turn, model=ask.model, text=text), end)


class AnsweringHub(ScriptedHub):
    """Answers in the next turn of the loop, as the real one at its earliest."""

    def start(self, arrive: Callable[[Fact], None]) -> None:
        super().start(arrive)
        for command in self.asked:  # the first screen is seen before the app is
            self._answer(command)

    def post(self, command: Command) -> None:
        super().post(command)
        if self._arrive is not None:
            self._answer(command)

    def _answer(self, command: Command) -> None:
        for fact in answers(command):
            asyncio.get_running_loop().call_soon(self.tell, fact)


class Hands(Rig):
    """Acts on what is drawn: words are clicked where they stand, text comes as a paste."""

    def place(self, words: str, *, nth: int = 0) -> tuple[int, int]:
        """Column and line, in cells, at which these words begin to be drawn."""
        at = [
            (cell_len(line[:column]), number)
            for number, line in enumerate(self.words.splitlines())
            for column in range(len(line))
            if line.startswith(words, column)
        ]
        assert len(at) > nth, f"{words!r} is not drawn:\n{self.words}"
        return at[nth]

    async def settled(self) -> None:
        """A footer is filled, a panel put in its place, a beat after the first paint."""
        looks = [self.words]
        while len(looks) < 3 or len({*looks[-3:]}) > 1:
            await self.pilot.pause(0.03)
            looks.append(self.words)

    async def click(self, words: str, *, times: int = 1, nth: int = 0) -> None:
        await self.until(lambda: self.words.count(words) > nth)
        await self.settled()
        column, line = self.place(words, nth=nth)
        await self.pilot.click(offset=(column + 1, line), times=times)

    async def tap(self, key: str, words: str, *, nth: int = 0) -> None:
        """Click on an entry of the footer."""
        await self.click(f"{key} {words}", nth=nth)

    async def paste(self, text: str) -> None:
        """What a terminal sends for a paste; much quicker than a key for each letter."""
        self.app.post_message(Paste(text))
        await self.pilot.pause()

    async def to(self, kind: type) -> None:
        """Wait for a screen."""
        await self.until(lambda: isinstance(self.app.screen, kind))
        await self.pilot.pause()


@contextlib.asynccontextmanager
async def hands(
    *,
    facts: Iterable[Fact] = USUAL,
    link: Sequence[str] = (),
    size: tuple[int, int] = (100, 30),
    drafts: DraftsPort | None = None,
) -> AsyncIterator[Hands]:
    """A window over a hub that answers."""
    hub = AnsweringHub(facts)
    app = BlindhostApp(hub, clock=lambda: NOW, link=link, quiet=True, drafts=drafts)
    async with app.run_test(size=size) as pilot:
        yield Hands(app, hub, pilot)


__all__ = ["LOOSE", "SETUP", "TIGHT", "AnsweringHub", "Hands", "hands"]
