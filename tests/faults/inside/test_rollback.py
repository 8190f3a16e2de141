"""A broker that is restored from any earlier commit point releases nothing, and knows why.

(1) Both brokers' logs and heads in the release world: a life of one job, a copy at each commit, and
every pair of a commit that was reached and an earlier one that is put back, each with one single
witness of the newest head left. (2) A whole town, in which a broker is put back while its job runs.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from marketplace import ledger
from marketplace.models import JobState
from tests.client.stage import Faults, Stage, head_of
from tests.client.test_broker import stored
from tests.faults.inside.points import SEED_VARIABLE, Points, seed
from tests.faults.inside.template import scratch, template
from tests.faults.inside.town import Town, check_released, in_no_time
from tests.trust.release_world import Enclave
from trust.artifacts import ArtifactKind
from trust.messages import End, FollowUpKind, Refused
from trust.release_state import Standing

BOTH = ("owner", "buyer")
WITNESSES = ("market", "custodian", "own place")
OTHER = {"owner": "buyer", "buyer": "owner"}
LATER_TICKS = 60
SAMPLE = 2


class Copying(Faults):
    """Keeps a copy of a home each time that its release log has changed."""

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__()
        self._home, self._folder = home, folder
        self.copies: list[Path] = []
        self._log = b""

    def act(self, whole: Callable[[], None], half: Callable[[], None] = lambda: None) -> None:
        whole()
        log = (self._home / "release-log").read_bytes()
        if log != self._log:
            self._log = log
            self.copies.append(self._folder / f"copy-{len(self.copies)}")
            shutil.copytree(self._home, self.copies[-1])
            self.copies[-1].chmod(0o700)


async def life(stage: Stage, name: str) -> list[Callable[[], object]]:
    """What a custodian does for one job, as steps; each ends when nobody has more to say."""
    enclave = Enclave()
    party = stage.owner if name == "owner" else stage.buyer
    made: dict[str, object] = {}

    async def seat() -> None:
        assert isinstance(await stage.ask(name, enclave), bytes)

    async def report(step: int) -> None:
        manifest = stored(stage, enclave, keep=True)
        before = made.get("report")
        signed = stage.report(enclave, step, signed=manifest, before=before)  # type: ignore[arg-type]
        made["report"] = signed.digest
        await stage.say(name, signed.encode())

    async def follow_up(number: int, kind: FollowUpKind, *artifacts: object) -> None:
        nonce = stage.seat(name).statement.nonce
        asked = stage.follow_up(
            party,
            enclave,
            number,
            kind,
            artifacts=artifacts,
            nonce=nonce,  # type: ignore[arg-type]
        )
        await stage.say(name, asked.encode())

    async def share() -> None:
        made["adapter"] = stage.derived(enclave.party, ArtifactKind.ADAPTER)
        await follow_up(1, FollowUpKind.SHARE, made["adapter"])

    async def close_accounts() -> None:
        await follow_up(2, FollowUpKind.CLOSE)

    async def end() -> None:
        adapter = made["adapter"]
        last = stage.receipt(enclave, 1, 10, end=End.DONE, outputs=(adapter.digest,))  # type: ignore[attr-defined]
        await stage.say(name, last.encode())

    return [seat, lambda: report(2), lambda: report(4), share, close_accounts, end]


async def put_back(folder: Path, name: str, witness: str, *, first: int) -> int:
    """Each commit from step `first` of a life on, and each earlier one; returns how many pairs."""
    pairs = 0
    for reached in itertools.count(first):
        stage = Stage(folder / f"{reached}")
        own = stage.custody[name].home.folder
        copying = Copying(own, folder / f"copies-{reached}")
        (folder / f"copies-{reached}").mkdir()
        await stage.start(OTHER[name])
        await stage.start(name, faults=copying)
        steps = await life(stage, name)
        if witness == "custodian":  # whom nobody tells of a receipt: it is only a copy
            steps.pop()
        for step in steps[:reached]:
            await step()  # type: ignore[misc]
        stage.stop(name)
        place = stage.folder / "elsewhere"
        shutil.copytree(own / "heads", place)
        if witness != "market":
            stage.market.hides_heads = True
        if witness != "custodian":
            stage.custody[OTHER[name]].broker = None  # it is offline, and nobody is left to ask
        for copy in copying.copies[:-1]:
            pairs += 1
            await check_releases_nothing(stage, name, copy, place, witness)
        stage.stop(OTHER[name])
        if reached >= len(steps):
            return pairs
    raise AssertionError("a life has an end")


async def check_releases_nothing(
    stage: Stage, name: str, copy: Path, place: Path, witness: str
) -> None:
    identity = stage.custody[name].keys.party.identity
    shutil.rmtree(copy / "heads")
    here = place if witness == "own place" else None
    broker = await stage.start(name, folder=copy, place=here)
    before = {g: stage.grants(identity, g) for g in (1, 2)}
    # Twice: it hears of its own head once somebody asks.
    said = [await stage.ask(name, Enclave(), generation) for generation in (1, 2, 2)]
    assert {g: stage.grants(identity, g) for g in (1, 2)} == before
    assert broker.standing is Standing.BEHIND
    last = said[-1]
    assert isinstance(last, Refused), said
    assert last.code == "broker-behind"
    stage.stop(name)


@pytest.mark.slow
@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("name", BOTH)
async def test_a_broker_put_back_to_any_earlier_commit_releases_nothing(
    tmp_path: Path, name: str, witness: str
) -> None:
    assert await put_back(tmp_path, name, witness, first=99) >= 4


@pytest.mark.full
@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("name", BOTH)
async def test_a_broker_put_back_from_any_commit_to_any_earlier_one_releases_nothing(
    tmp_path: Path, name: str, witness: str
) -> None:
    assert await put_back(tmp_path, name, witness, first=1) >= 15


# --- in a town, while the job runs ---------------------------------------------------------------


async def put_back_in_a_town(name: str, reached: int, earlier: int) -> bool:
    """Put a broker of a running job back to its log after write `earlier`; False: none was."""
    with (
        in_no_time(),
        tempfile.TemporaryDirectory(prefix="blindhost-inside-", dir=scratch()) as folder,
    ):
        town = Town(Path(folder) / "town", await template(), Points())
        custodian = town.custodians[name]
        custodian.copies = []
        try:
            await town.run(until=lambda: len(custodian.copies or ()) >= reached)
            copies, granted = list(custodian.copies), town.grants()
            if town.state is JobState.SUCCEEDED:
                return False
            custodian.die()
            custodian.restore(copies[earlier - 1], heads=None)
            for _ in range(LATER_TICKS):
                await town.tick()
            assert custodian.standing is Standing.BEHIND
            mine = {key for key in town.grants() if key[0] == custodian.identity}
            assert {key: town.grants()[key] for key in mine} == {key: granted[key] for key in mine}
            assert town.read(ledger.audit) == ()
            assert town.paid_steps() <= 4
            custodian.die()
            custodian.restore(copies[-1], heads=None)  # the newest log is found, and all goes on
            await town.run(until=town.ended)  # a close that came meanwhile is said again later
            assert town.state is JobState.SUCCEEDED, town.standing()
            check_released(town)
        finally:
            await town.close()
    return True


def writes(name: str) -> int:
    """How often a custodian's log is written in an undisturbed run."""
    from tests.faults.inside.test_inside import counted

    return counted()[f"broker-{name}", "log"]


def pairs(name: str) -> list[tuple[str, int, int]]:
    last = writes(name)
    return [(name, k, j) for k in range(2, last) for j in range(1, k)]


@pytest.mark.slow
def test_brokers_put_back_while_their_job_runs_release_nothing_more() -> None:
    chosen = random.Random(seed()).sample(pairs("owner") + pairs("buyer"), SAMPLE)
    for each in chosen:
        try:
            asyncio.run(put_back_in_a_town(*each))
        except BaseException as error:
            error.add_note(f"at {each}; {SEED_VARIABLE}={seed()}")
            raise


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BOTH)
def test_a_broker_put_back_from_any_commit_to_any_earlier_one_in_a_town(name: str) -> None:
    ran = [asyncio.run(put_back_in_a_town(*each)) for each in pairs(name)]
    assert sum(ran) >= len(ran) // 2


# --- a log that grows after it was put back ------------------------------------------------------


async def forgetful(stage: Stage, folder: Path) -> tuple[Path, Enclave]:
    """An owner's home that forgot the release of generation 2, and generation 1's enclave."""
    copying = Copying(stage.custody["owner"].home.folder, folder)
    await stage.start("buyer")
    await stage.start("owner", faults=copying)
    enclave = Enclave()
    assert isinstance(await stage.ask("owner", enclave), bytes)
    copy = copying.copies[-1]
    assert isinstance(await stage.ask("owner", Enclave(), 2), bytes)  # this is forgotten
    stage.stop("owner")
    shutil.rmtree(copy / "heads")
    return copy, enclave


async def receipts(stage: Stage, enclave: Enclave) -> None:
    """More of them than entries were forgotten."""
    before = None
    for number in range(1, 13):
        receipt = stage.receipt(enclave, number, 0, before=before)
        before = receipt.digest
        await stage.say("owner", receipt.encode())


async def assert_releases_nothing(stage: Stage, copy: Path, starts: int) -> None:
    """Though it is started again and again, and asked each time."""
    identity = stage.owner.key.identity
    granted = stage.grants(identity, 2)
    for _ in range(starts):
        stage.stop("owner")
        broker = await stage.start("owner", folder=copy)
        said = await stage.ask("owner", Enclave(), 2)
        assert stage.grants(identity, 2) == granted
        assert broker.standing is Standing.BEHIND
        assert isinstance(said, Refused)
        assert said.code == "broker-behind"
    for name in BOTH:
        stage.stop(name)


@pytest.mark.parametrize("market_hides_heads", [False, True])
async def test_receipts_that_a_broker_hears_after_it_was_put_back_make_its_log_no_newer(
    tmp_path: Path, *, market_hides_heads: bool
) -> None:
    """A log that goes on from an old copy must not outgrow the one that was lost.

    Receipts come by the minute, from an enclave that knows nothing of a restored broker. Counted as
    entries they would pass the newest head that others hold, and after the next start of the broker
    nobody could tell any more.
    """
    stage = Stage(tmp_path)
    copy, enclave = await forgetful(stage, tmp_path)
    stage.market.hides_heads = market_hides_heads
    await stage.start("owner", folder=copy)
    log, head = (copy / "release-log").read_bytes(), head_of(stage.market, stage.owner.key)
    await receipts(stage, enclave)
    if not market_hides_heads:  # it knew at once, so it wrote nothing, and told nobody
        assert (copy / "release-log").read_bytes() == log
        assert head_of(stage.market, stage.owner.key) == head
    await assert_releases_nothing(stage, copy, 3)
    if not market_hides_heads:  # the log that was lost is found, and goes on
        for name in BOTH:
            await stage.start(name)
        assert isinstance(await stage.ask("owner", Enclave(), 3), bytes)
        for name in BOTH:
            stage.stop(name)


@pytest.mark.parametrize("kind", ["account", "report"])
async def test_a_broker_put_back_answers_no_enclave_before_the_other_custodian(
    tmp_path: Path, kind: str
) -> None:
    """The market hides what it knows, and the own place is lost: one witness is left."""
    stage = Stage(tmp_path)
    copy, enclave = await forgetful(stage, tmp_path)
    stage.market.hides_heads = True
    await stage.start("owner", folder=copy)
    if kind == "account":
        nonce = stage.seat("owner").statement.nonce
        asked = stage.follow_up(
            stage.owner, enclave, 1, FollowUpKind.ACCOUNT, nonce=nonce, used=(64, 1, 1)
        ).encode()
    else:
        asked = stage.report(enclave, 2, signed=stored(stage, enclave, keep=True)).encode()  # type: ignore[arg-type]
    before = (copy / "release-log").read_bytes()
    (said,) = await stage.say("owner", asked)
    assert isinstance(said, Refused)
    assert said.code in {"broker-behind", "report-broker-behind"}
    assert (copy / "release-log").read_bytes() == before
    await assert_releases_nothing(stage, copy, 1)
