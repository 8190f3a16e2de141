"""What commands do: each in a task of its own, answered by facts, or by a `Failure` with its id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import client
from client.backup import back_up
from client.drafting import in_sentences
from client.files import write_durably
from client.home_view import make_keys
from tui import commands, facts, translate, translate_jobs

if TYPE_CHECKING:
    from tui.hub import Hub

EVENTS_PAGE: Final = 500
ENTRIES_PAGE: Final = 200
MANIFEST_CHARACTERS_MAX: Final = 1 << 16
_AGAIN: Final = (client.MarketUnreachableError, client.UnauthenticatedAnswerError)


def market_config(url: str, identity: str) -> client.Config:
    """A market as a person names it. Raises EncodingError where it can't be one."""
    market = client.parse_hex(identity)
    client.MarketAddress(url=url, identity=market)
    return client.Config(market_url=url, market=market)


class Doing:
    """The commands that are no looking."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._quoted: dict[facts.JobDraft, str] = {}
        """Draft → the offer that it was last quoted on: what a submission's machine is like."""

    def post(self, command: commands.Command) -> None:
        """Begin what a command asks for."""
        group, work = self._plan(command)
        if work is not None:
            self._hub.spawn(group, lambda: self._answered(command, work))

    async def _answered(
        self, command: commands.Command, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do it, again while the market is away; any other failure is told under its id."""
        try:
            await self._hub.patiently(command.id, work)
        except (client.BlindhostError, OSError) as error:
            self._hub.fail(command.id, error)

    def _plan(  # noqa: C901, PLR0912 - one line for each command
        self, command: commands.Command
    ) -> tuple[str, Callable[[], Awaitable[None]] | None]:
        """In which group a command runs, and what it does."""
        own = f"do:{command.id}"
        match command:
            case commands.Search():
                return "search", lambda: self._hub.looking.search(command)
            case commands.CheckDataset():
                return f"check:{command.path}", lambda: self._check(command)
            case commands.SealDataset():
                return f"seal:{command.path}", lambda: self._seal(command)
            case commands.WantQuote():
                return "quote", lambda: self._quote(command)
            case commands.Submit():
                return own, lambda: self._submit(command)
            case commands.CloseJob():
                return own, lambda: self._close(command)
            case commands.MoreEvents():
                return own, lambda: self._more_events(command)
            case commands.Verify():
                return own, lambda: self._verify(command)
            case commands.Export():
                return own, lambda: self._export(command)
            case commands.FetchResult():
                return f"fetch:{command.job}", lambda: self._fetch(command)
            case commands.MoreEntries():
                return own, lambda: self._more_entries(command)
            case commands.WriteStatement():
                return own, lambda: self._statement(command)
            case commands.BackUp():
                return own, lambda: self._back_up(command)
            case commands.Answer():
                return own, lambda: self._answer(command)
            case commands.RotateEpoch():
                return own, lambda: self._rotate(command)
            case commands.Ask():
                self._hub.looking.talk.ask(command)
                return own, None
            case commands.StopTurn():
                self._hub.looking.talk.stop_turn(command.turn)
                return own, None
            case _:
                raise AssertionError(f"no plan for {type(command).__name__}")

    async def make_keys(self, command: commands.MakeKeys) -> None:
        """Make a home and its keys. Raises HomeError, KeystoreError, EncodingError."""
        config = market_config(command.market_url, command.market_identity)
        await asyncio.to_thread(make_keys, self._hub.home, config, command.passphrase)

    # --- data ------------------------------------------------------------------------------------

    async def _check(self, command: commands.CheckDataset) -> None:
        checks = client.check_dataset(_path(command.path))
        async for each in client.iterating(checks):
            self._hub.arrive(translate.dataset_check(command.path, each, self._hub.clock()))

    async def _seal(self, command: commands.SealDataset) -> None:
        hub, party = self._hub, await self._hub.opened()
        kind = client.LineageKind.SIMULATED if hub.simulated else client.LineageKind.REAL
        began = hub.clock()
        path = _path(command.path)
        async for each in party.seal(path, command.name, kind):
            took = max(1, hub.clock() - began)
            if isinstance(each, client.Stepped):
                speed = each.done * 1000 // took
                self._tell_seal(command.path, "sealing", each.done, each.total, speed, "")
            else:
                artifact = each.result.manifest.digest.hex()
                size = each.result.manifest.document.padded_bytes
                self._tell_seal(command.path, "done", size, size, size * 1000 // took, artifact)
        await hub.tell_setup()

    def _tell_seal(
        self, path: str, stage: str, done: int, total: int, speed: int, artifact: str
    ) -> None:
        self._hub.arrive(
            facts.SealProgress(
                as_of=self._hub.clock(),
                path=path,
                stage=stage,
                bytes_done=done,
                bytes_total=total,
                bytes_per_second=speed,
                artifact=artifact,
            )
        )

    # --- jobs ------------------------------------------------------------------------------------

    async def _draft(self, draft: facts.JobDraft) -> client.TuneDraft:
        party = await self._hub.opened()
        view = await party.view()
        data = client.parse_hex(draft.data)
        rows = next((n.rows for a, n, _ in view.data if a == data and n is not None), None)
        if rows is None:
            raise client.HomeError("how many rows this dataset has is not known here: seal it here")
        recipe = draft.recipe
        return client.TuneDraft(
            model=client.parse_hex(draft.model),
            data=data,
            heldout=client.parse_hex(draft.heldout) if draft.heldout else None,
            rows=rows,
            rank=recipe.rank,
            alpha=recipe.alpha,
            steps=recipe.steps,
            rows_per_step=recipe.rows_per_step,
            learning_rate=recipe.learning_rate,
            length_max=recipe.length_max,
            seed=recipe.seed,
            precision=recipe.precision,
            checkpoint_steps=recipe.checkpoint_steps,
            spend_max=draft.spend_max,
            price_max=draft.price_max,
            images=(client.parse_hex(draft.image),) if draft.image else (),
        )

    async def _offer(self, draft: facts.JobDraft, named: str) -> client.OfferView:
        """The offer that is named, or was quoted on; else the cheapest that may be released to."""
        party = await self._hub.opened()
        name = named or self._quoted.get(draft, "")
        if name:
            return await party.api.get_offer(name)
        _, page = await party.search("", "price", 0, ENTRIES_PAGE)
        previews = await party.preview(page.offers)
        for offer, preview in zip(page.offers, previews, strict=True):
            price = offer.draft.ask_microcredits_per_gpu_hour
            if preview.would is not client.Would.REFUSE and price <= draft.price_max:
                return offer
        raise client.HomeError("no listed offer fits this price and your policies")

    async def _quote(self, command: commands.WantQuote) -> None:
        hub, party = self._hub, await self._hub.opened()
        offer = await self._offer(command.draft, command.offer)
        prepared, found = await party.quote(await self._draft(command.draft), offer)
        self._quoted[command.draft] = offer.draft.offer
        refused = ""
        try:
            await party.check(prepared)
        except client.RefusedError as error:
            refused = translate.words(f"{error.code}: {error.text}")
        shown = client.canonical_json(prepared.manifest.to_json()).decode()
        sentences = (*in_sentences(prepared.manifest, prepared.terms.document), found.rests_on)
        hub.arrive(
            facts.Quote(
                as_of=hub.clock(),
                draft=command.draft,
                cost_max=found.cost_max,
                cost_low=found.cost_low,
                cost_high=found.cost_high,
                milliseconds=found.milliseconds,
                sentences=tuple(map(translate.words, sentences)),
                manifest=client.clean(shown, limit=MANIFEST_CHARACTERS_MAX),
                refused=refused,
                expires_at=found.expires_at,
            )
        )

    async def _submit(self, command: commands.Submit) -> None:
        """A command becomes one job, over a restart too: `client.submitting` keeps which."""
        hub, party = self._hub, await self._hub.opened()

        async def prepare() -> client.Prepared:
            offer = await self._offer(command.draft, command.offer)
            return (await party.quote(draft, offer))[0]

        try:
            draft = await self._draft(command.draft)
            view = await party.submit(command.id, draft, command.draft.name, prepare)
        except _AGAIN:
            raise
        except client.RefusedError as error:
            self._tell_submitted(command, facts.Submitted.REFUSED, "", error.code, error.text)
        except (client.BlindhostError, OSError) as error:
            name = type(error).__name__
            self._tell_submitted(command, facts.Submitted.REFUSED, "", name, str(error))
        else:
            job, held = view.job.hex(), view.money.reserved
            text = f"accepted; {held} microcredits are held for it"
            self._tell_submitted(command, facts.Submitted.ACCEPTED, job, "", text)
            await hub.tell_setup()

    def _tell_submitted(
        self,
        command: commands.Submit,
        outcome: facts.Submitted,
        job: str,
        check: str,
        text: str,
    ) -> None:
        self._hub.arrive(
            facts.SubmitResult(
                as_of=self._hub.clock(),
                command=command.id,
                outcome=outcome,
                job=job,
                check=translate.label(check),
                words=translate.words(text),
            )
        )

    async def _close(self, command: commands.CloseJob) -> None:
        party = await self._hub.opened()
        await party.close_job(client.parse_hex(command.job))

    async def _more_events(self, command: commands.MoreEvents) -> None:
        party = await self._hub.opened()
        story = await party.story(client.parse_hex(command.job))
        older = [each for each in story if each.number < command.before]
        for each in older[-EVENTS_PAGE:]:
            self._hub.arrive(translate_jobs.event(command.job, each, self._hub.clock()))

    async def _fetch(self, command: commands.FetchResult) -> None:
        hub, party = self._hub, await self._hub.opened()
        path = _path(command.path)
        segments = 0
        async for each in party.fetch(client.parse_hex(command.job), path):
            done, total, whole = 0, 0, ""
            if isinstance(each, client.Stepped):
                done, total = each.done << 20, each.total << 20  # segments of a mebibyte
                segments = each.total
            else:
                done = total = each.result or segments << 20
                whole = str(path)
            hub.arrive(
                facts.ResultFetch(
                    as_of=hub.clock(),
                    job=command.job,
                    bytes_done=done,
                    bytes_total=total,
                    path=whole,
                )
            )

    # --- trust -----------------------------------------------------------------------------------

    async def _verify(self, command: commands.Verify) -> None:
        told = await self._hub.looking.appraise(command.job, command.generation)
        if not told:
            raise client.HomeError("nothing is kept of this generation to verify")

    async def _export(self, command: commands.Export) -> None:
        party = await self._hub.opened()
        path = _path(command.path)
        await party.export(client.parse_hex(command.job), command.generation, path)
        self._exported(command.id, path, "a transcript; `blindhost trust verify` opens it offline")

    def _exported(self, command: str, path: Path, text: str) -> None:
        self._hub.arrive(
            facts.Exported(as_of=self._hub.clock(), command=command, path=str(path), words=text)
        )

    # --- money -----------------------------------------------------------------------------------

    async def _more_entries(self, command: commands.MoreEntries) -> None:
        party = await self._hub.opened()
        older = [each for each in await party.lines() if each.number < command.before]
        for each in reversed(older[-ENTRIES_PAGE:]):
            self._hub.arrive(translate.entry(each, self._hub.clock()))

    async def _statement(self, command: commands.WriteStatement) -> None:
        party = await self._hub.opened()
        lines = await party.lines()
        make = client.as_csv
        if command.form is commands.StatementForm.BEANCOUNT:
            make = client.as_beancount
        path = _path(command.path)
        content = make(lines, command.month).encode()
        await asyncio.to_thread(_write_new, path, content)
        self._exported(command.id, path, f"the statement of {command.month}")

    # --- keys ------------------------------------------------------------------------------------

    async def _back_up(self, command: commands.BackUp) -> None:
        party = await self._hub.opened()
        path = _path(command.path)
        await asyncio.to_thread(back_up, party.home, path)
        self._exported(command.id, path, "a backup; it opens as your home does, by passphrase")
        await self._hub.tell_setup()

    async def _answer(self, command: commands.Answer) -> None:
        party = await self._hub.opened()
        await party.answer(command.consent, yes=command.yes)
        await self._hub.looking.tell_consents()

    async def _rotate(self, command: commands.RotateEpoch) -> None:
        party = await self._hub.opened()
        lineage = client.parse_hex(command.lineage.split(" ")[0])
        await asyncio.to_thread(party.keys.new_epoch, lineage)
        await self._hub.tell_setup()


def _path(text: str) -> Path:
    """A path as a person writes it."""
    return Path(text).expanduser()


def _write_new(path: Path, content: bytes) -> None:
    """Write a file. Raises HomeError if something has that name."""
    if path.exists() or path.is_symlink():
        raise client.HomeError(f"{path.name} is there already; it is never overwritten")
    write_durably(path, content)
