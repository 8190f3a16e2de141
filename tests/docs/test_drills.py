"""The drills of docs/operations.md, run by its own commands over real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from client.cli.job import ENDED
from client.cli.shared import market
from client.home import Home
from client.release_log import replay
from demo.parties import descendants
from marketplace.wire import JobState, JobView
from tests.assets import tiny_model
from tests.docs.pages import Terminal, sections
from tests.docs.town import CHECKOUT, Town
from trust.artifacts import ArtifactOpener, Manifest
from trust.custody import artifact_key, artifact_share
from trust.errors import SealingError
from trust.release_state import Memory

PAGE: Final = "operations.md"
WAIT_SECONDS: Final = 240.0  # an enclave that was lost, and the next one, on a busy machine
LONG: Final = {"recipe": {"steps": 400, "warmup_steps": 1}, "checkpoint_steps": 10}
SHORT: Final = {"recipe": {"steps": 4}, "checkpoint_steps": 2, "generations_max": 1}

SLOW_CLOCK: Final = """
import client.cli.party as party
from client.cli import main
from client.cli.shared import now_milliseconds
party.now_milliseconds = lambda: now_milliseconds() - 360_000
main()
"""
"""`blindhost` whose broker's clock is six minutes slow, so that nobody has to wait for five."""

WRONG_CLOCK: Final = """
import client.cli.party as party
import client.cli.shared as shared
from client.cli import main
right = shared.now_milliseconds
shared.now_milliseconds = party.now_milliseconds = lambda: right() - 600_000
main()
"""


def wait_for(what: str, ready: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := ready()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return value


def test_every_block_of_the_page_is_run_by_a_drill() -> None:
    drills = Path(__file__).read_text(encoding="utf-8")
    for heading in sections(PAGE):
        assert f'section("{heading}", page=PAGE)' in drills, heading


# --- with everybody there ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("town")) as opened:
        opened.open()
        yield opened


def memory_of(town: Town) -> Memory:
    """What the owner's release log on the disk says."""
    return replay((town.work / "owner" / "release-log").read_bytes()).memory


def log_of(town: Town) -> str:
    """What the owner's broker said since its last start."""
    return (town.work / "owner-broker.log").read_text(encoding="utf-8")


def submit(town: Town, **changes: Any) -> str:
    """Submit the buyer's quickstart's job with changes; the job's name."""
    value = json.loads(town.train_json())
    recipe = value["recipe"] | changes.pop("recipe", {})
    file = town.work / "drill.json"
    file.write_text(json.dumps(value | changes | {"recipe": recipe}), encoding="utf-8")
    town.buyer.run(
        'JOB=$(blindhost job submit "$WORK/drill.json" --home "$BUYER" --model "$ARTIFACT"'
        ' --dataset "$DATASET" --image "$MEASUREMENT" --json | field job)\n'
    )
    return town.buyer.value("JOB")


def shown(town: Town, job: str) -> JobView:
    """What the market says of a job to its buyer."""
    home = Home.open(town.work / "buyer")

    async def ask() -> JobView:
        async with market(home, home.keystore()) as api:
            return await api.get_job(bytes.fromhex(job))

    return asyncio.run(ask())


def waiting_for(town: Town, job: str) -> str:
    """What a job waits for, in the market's words."""
    return shown(town, job).waiting_for or ""


def has_succeeded(town: Town, job: str) -> bool:
    """Whether a job succeeded; one that ended otherwise fails the test."""
    state = shown(town, job).state
    assert state is JobState.SUCCEEDED or state not in ENDED, f"{state}: {log_of(town)}"
    return state is JobState.SUCCEEDED


def stop_owner(town: Town) -> None:
    """End the owner's broker, as its page does."""
    town.owner.run('kill "$OWNER_BROKER_PID"\nwait "$OWNER_BROKER_PID" || true\n')


def kill_host(town: Town) -> None:
    """SIGKILL to agent, chip and enclave, as a power cut does."""
    agent = int(town.host.value("AGENT_PID"))
    for pid in (agent, *descendants(agent)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_restored_broker_releases_nothing_until_a_person_opens_an_incarnation(
    town: Town,
) -> None:
    """(1) Back up. (2) A job goes on, and loses its host. (3) Restore the older home: it waits.

    (4) It is stopped, a new incarnation opened, and a new job runs.
    """
    town.owner.section("What to back up", page=PAGE)  # (1)
    older = submit(town, **LONG)  # (2)
    name = bytes.fromhex(older)
    wait_for("a checkpoint counts", lambda: name in memory_of(town).checkpoints)
    assert (name, 1, 0) in memory_of(town).seats
    kill_host(town)

    town.owner.section("Restore a broker", page=PAGE)  # (3)
    wait_for("it says so", lambda: "older than its own head: nothing is released" in log_of(town))
    town.host.section("2. Serve")
    wait_for("a release is wanted", lambda: "not ready: broker-behind" in log_of(town))
    assert memory_of(town).seats == {}
    wait_for("the job waits for it", lambda: waiting_for(town, older).startswith("key broker of"))
    assert memory_of(town).seats == {}

    town.buyer.run(f'blindhost job stop {older} --home "$BUYER"\n')  # (4)
    town.owner.run(f"blindhost() {{ exec python3 -c '{SLOW_CLOCK}' \"$@\"; }}\n")
    town.owner.section("Open a new incarnation", page=PAGE)
    wait_for("it is open", lambda: "incarnation 2 is open" in log_of(town))
    stop_owner(town)
    town.owner.run("unset -f blindhost")
    town.owner.section("3. Run the key broker")
    newer = submit(town, **SHORT)
    wait_for("the new job runs", lambda: has_succeeded(town, newer))
    assert set(memory_of(town).seats) == {(bytes.fromhex(newer), 1, 0)}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_revoked_image_and_a_revoked_chip_are_refused_by_their_own_codes(town: Town) -> None:
    """The newest policy counts at once; the one before counts again when it is published again."""
    owner = town.owner
    measurement, root = owner.value("MEASUREMENT"), owner.value("ROOT")
    owner.tell(GOOD="00" * 48)
    owner.section("Revoke an image", page=PAGE)
    refused(town, submit(town, **SHORT), "evidence-measurement")
    owner.tell(GOOD_ROOT="00" * 32)
    owner.section("Revoke a chip", page=PAGE)
    refused(town, submit(town, **SHORT), "evidence-untrusted")
    owner.tell(GOOD=measurement, ROOT=root)
    owner.section("Revoke an image", page=PAGE)
    job = submit(town, **SHORT)
    wait_for("it runs again", lambda: has_succeeded(town, job))


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_broker_whose_clock_is_wrong_says_by_how_much_and_goes_on_once_it_is_right(
    town: Town,
) -> None:
    stop_owner(town)
    town.owner.run(f"blindhost() {{ exec python3 -c '{WRONG_CLOCK}' \"$@\"; }}\n")
    town.owner.section("3. Run the key broker")
    wait_for("it says so", lambda: re.search(r"signed 6\d\d s ago; at most 300", log_of(town)))
    stop_owner(town)
    town.owner.run("unset -f blindhost")
    town.owner.section("3. Run the key broker")
    job = submit(town, **SHORT)
    wait_for("jobs run again", lambda: has_succeeded(town, job))


def refused(town: Town, job: str, code: str) -> None:
    """The job ends, and this code alone is why: the owner's log knows no release for it."""
    before = log_of(town)
    wait_for("it ends", lambda: shown(town, job).state in ENDED)
    said = log_of(town)[len(before) :]
    codes = re.findall(r"refused: ([a-z-]+):", said)
    assert set(codes) == {code}, said
    assert not [seat for seat in memory_of(town).seats if seat[0].hex() == job]


# --- with a broker alone -------------------------------------------------------------------------


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Terminal]:
    """An owner whose market is not there."""
    model = tiny_model().write(tmp_path / "model")
    (tmp_path / "work").mkdir(mode=0o700)
    told = {
        "CHECKOUT": str(CHECKOUT),
        "WORK": str(tmp_path / "work"),
        "MODEL": str(model),
        "MARKET_URL": "http://127.0.0.1:1",
        "MARKET_IDENTITY": "00" * 32,
    }
    terminal = Terminal(tmp_path, "quickstart/owner.md", told)
    try:
        terminal.section("1. Seal")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.slow
def test_after_an_epoch_is_rotated_old_and_new_artifacts_open_each_under_its_own_key(
    lonely: Terminal, tmp_path: Path
) -> None:
    said = lonely.section("Rotate an epoch", page=PAGE)
    assert "'epoch': 2" in said, said
    home = Home.open(tmp_path / "work" / "owner")
    keys = home.keystore()
    manifests = home.load(Manifest, keys.party.identity).values()
    found = {each.document.core.custodians[0].epoch: each.document for each in manifests}
    assert sorted(found) == [1, 2]
    lineage_keys = {
        epoch: keys.lineage_key(each.core.custodians[0]) for epoch, each in found.items()
    }
    assert lineage_keys[1] != lineage_keys[2]
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    for epoch, manifest in found.items():
        assert opened(home, manifest, lineage_keys[epoch]) == weights
        with pytest.raises(SealingError):
            opened(home, manifest, lineage_keys[3 - epoch])


def opened(home: Home, manifest: Manifest, lineage_key: bytes) -> bytes:
    """The plaintext of an own artifact, under its custodian's lineage key."""
    folder = home.folder / "sealed" / manifest.digest.hex()
    segments = [path.read_bytes() for path in sorted(folder.glob("[0-9]*"))]
    opener = ArtifactOpener(
        manifest=manifest,
        segment_list=(folder / "list").read_bytes(),
        key=artifact_key([artifact_share(lineage_key, manifest.core)], manifest.core),
        first_segment=segments[0],
    )
    return b"".join(opener.open(number, each)[1] for number, each in enumerate(segments))


@pytest.mark.slow
def test_a_broker_whose_market_is_away_says_so_and_goes_on(
    lonely: Terminal, tmp_path: Path
) -> None:
    log = tmp_path / "work" / "owner-broker.log"
    lonely.section("3. Run the key broker")
    said = b"WARNING client.broker market:"  # the shell makes the file a moment later
    wait_for("it says so", lambda: log.exists() and said in log.read_bytes())
    lonely.run('kill -0 "$OWNER_BROKER_PID"')


@pytest.mark.slow
def test_a_broker_that_cannot_write_ends_and_names_the_error(lonely: Terminal) -> None:
    broker = 'ulimit -f 0; exec blindhost broker --home "$OWNER"'
    said = lonely.run(
        f"export OWNER\nbash -c '{broker}' 2>&1 | cat || echo \"status ${{PIPESTATUS[0]}}\"\n"
    )
    assert "File too large" in said
    assert "status 1" in said
