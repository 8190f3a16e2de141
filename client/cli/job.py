"""`blindhost job`: submit a job, watch it, show what became of it."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.buyer import Follower, check_receipts, last_receipt, outputs, sign_job
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    errors,
    hex_bytes,
    lines,
    market,
    now_milliseconds,
    open_home,
    output,
    plain_value,
    progress,
    run,
    say,
    show,
)
from client.client_key import load_client_key
from client.closing import send_close
from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from client.market_api import MarketApi
from client.market_port import HttpMarket
from client.sealed import upload
from client.text import TEXT_CHARACTERS_MAX, clean
from marketplace.wire import JobState, JobView, ReceiptView
from trust.artifacts import Manifest
from trust.encoding import Json, base64url, digest, parse_json
from trust.errors import EncodingError
from trust.identity import Signed, verify_signed
from trust.jobs import ClientKey, Close, Input, InputRole, JobKind, JobManifest, Terms
from trust.messages import Progress, ProgressEvent
from trust.release_state import Memory

job = typer.Typer(no_args_is_help=True)

FILE_BYTES_MAX: Final = 1 << 16
DAY_MILLISECONDS: Final = 86_400_000
POLL_SECONDS: Final = 0.5
LAST_WORDS_POLLS_MAX: Final = 8  # a broker that runs takes it within seconds; none may run
FILLED: Final = frozenset(
    {"version", "nonce", "buyer", "progress_key", "inputs", "terms", "images", "client_keys"}
)
ENDED: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
)

JobArgument = Annotated[str, typer.Argument(help="The job's name: its digest, hex.")]


@job.command("submit")
def submit(
    file: Annotated[
        Path, typer.Argument(help="JSON of a job manifest's other fields; data, never code.")
    ],
    home: HomeOption,
    model: Annotated[str, typer.Option(help="Artifact id of the model, hex.")],
    image: Annotated[list[str], typer.Option(help="Runtime images that may run it, hex; repeat.")],
    dataset: Annotated[str | None, typer.Option(help="Own artifact to train on, hex.")] = None,
    heldout: Annotated[str | None, typer.Option(help="Own artifact to evaluate on, hex.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Own job's output to serve, hex; repeat.")
    ] = None,
    terms: Annotated[
        str | None, typer.Option(help="Digest of the owner's terms; the newest where absent.")
    ] = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Upload what is missing, sign the job and submit it; its money is held.

    The file lacks version, nonce, buyer, progress_key, inputs, terms, images and client_keys: they
    are filled in here, and so is expires_at, a day from now, where the file does not say. A serve
    job gets this home's client key: `blindhost gateway` then speaks to it.
    """
    opened, keys = open_home(home, key_file)
    named = {InputRole.MODEL: model, InputRole.DATASET: dataset, InputRole.HELDOUT: heldout}
    inputs = tuple(
        Input(role=role, artifact=hex_bytes(text, what=role.value))
        for role, text in named.items()
        if text is not None
    ) + tuple(
        Input(role=InputRole.ADAPTER, artifact=hex_bytes(text, what="adapter"))
        for text in adapter or ()
    )
    fields = _fields(file)
    images = tuple(hex_bytes(each, what="image", length=48) for each in image)
    wanted = None if terms is None else hex_bytes(terms, what="terms")
    view = run(_submit(opened, keys, fields, inputs, images, wanted))
    show(view, as_json=as_json)


def _fields(file: Path) -> dict[str, Json]:
    if file.stat().st_size > FILE_BYTES_MAX:
        raise EncodingError(f"{file.name}: over {FILE_BYTES_MAX} bytes")
    value = parse_json(file.read_bytes())
    if not isinstance(value, dict):
        raise EncodingError(f"{file.name}: a JSON object is wanted")
    if filled := sorted(set(value) & FILLED):
        raise EncodingError(f"{file.name}: {filled[0]} is filled in by the command")
    return value


async def _submit(
    home: Home,
    keys: Keystore,
    fields: dict[str, Json],
    inputs: tuple[Input, ...],
    images: tuple[bytes, ...],
    wanted: bytes | None,
) -> JobView:
    async with market(home, keys) as api:
        port = HttpMarket(api)
        memory = log_memory(home, keys)
        manifests = await _manifests(home, keys, api, inputs, memory)
        owner = manifests[inputs[0].artifact].document.core.custodians[0]
        if wanted is None:
            signed_terms = await api.get_terms(owner.identity, owner.lineage)
        else:
            data = await api.get_document(wanted)
            signed_terms = verify_signed(Terms, data, signer=owner.identity)
        whole: dict[str, Json] = {
            "expires_at": now_milliseconds() + DAY_MILLISECONDS,
            **fields,
            "version": 1,
            "nonce": base64url(secrets.token_bytes(32)),
            "buyer": base64url(keys.party.identity),
            "progress_key": base64url(keys.progress.public),
            "inputs": [each.to_json() for each in inputs],
            "terms": base64url(signed_terms.digest),
            "images": [base64url(each) for each in images],
            "client_keys": _client_keys(home, keys, fields),
        }
        signed = sign_job(
            home,
            keys,
            JobManifest.from_json(whole, where="job"),
            terms=signed_terms,
            manifests=manifests,
            now=now_milliseconds(),
            memory=memory,
        )
        for manifest in manifests.values():
            if manifest.document.core.origin is not None:
                await port.put_document(manifest.encode())  # its ciphertext came from the enclave
            elif manifest.signer == keys.party.identity:
                with progress("uploading") as step:
                    await upload(home, manifest, port, step)
        return await port.submit_job(signed)


def _client_keys(home: Home, keys: Keystore, fields: dict[str, Json]) -> list[Json]:
    """Who may speak to the job's enclave: this home's gateway to a serve job's, else nobody."""
    if fields.get("kind") != JobKind.SERVE.value:
        return []
    identity = load_client_key(home.folder, keys).identity
    return [ClientKey(identity=identity, tokens=None).to_json()]


def log_memory(home: Home, keys: Keystore) -> Memory:
    """What the home's release log says; nothing where its broker never ran."""
    exists = home.log_path.exists()
    return Follower(home, keys, bytes(32)).memory() if exists else Memory()


async def _manifests(
    home: Home, keys: Keystore, api: MarketApi, inputs: tuple[Input, ...], memory: Memory
) -> dict[bytes, Signed[Manifest]]:
    own = home.load(Manifest, keys.party.identity)
    found = {}
    for each in inputs:
        if each.artifact in own:
            found[each.artifact] = own[each.artifact]
        elif each.role is InputRole.ADAPTER and each.artifact in memory.outputs:
            found[each.artifact] = memory.outputs[each.artifact]
        elif each.role is InputRole.MODEL:
            data = await api.get_document(each.artifact)
            found[each.artifact] = verify_signed(Manifest, data, signer=None)
        elif each.role is InputRole.ADAPTER:
            raise HomeError(f"this home's release log shows no output {each.artifact.hex()[:16]}…")
        else:
            raise HomeError(f"this home sealed no {each.role.value} {each.artifact.hex()[:16]}…")
    return found


@job.command("close")
def close(name: JobArgument, home: HomeOption, key_file: KeyFileOption = None) -> None:
    """Close a job for good: no broker releases for it again. What was done so far is settled."""
    opened, keys = open_home(home, key_file)
    job_name = hex_bytes(name, what="job")

    async def send() -> None:
        async with market(opened, keys) as api:
            await send_close(api, keys, keys.party.sign(Close(job=job_name, at=now_milliseconds())))

    run(send())
    output.print("closed")


# --- following -----------------------------------------------------------------------------------


@job.command("watch")
def watch(
    name: JobArgument,
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Follow a job to its end; with --json one line for each record, and the job at last."""
    opened, keys = open_home(home, key_file)
    view = run(_watch(opened, keys, hex_bytes(name, what="job"), as_json=as_json))
    show({"event": "ended", "job": view} if as_json else view, as_json=as_json)
    if view.state is not JobState.SUCCEEDED:
        raise typer.Exit(2)


async def _watch(home: Home, keys: Keystore, name: bytes, *, as_json: bool) -> JobView:
    follower = Follower(home, keys, name)
    last: Progress | None = None
    began_at = 0
    last_words = LAST_WORDS_POLLS_MAX
    async with market(home, keys) as api:
        with Live(console=errors, auto_refresh=False, transient=True) as live:
            while True:
                view = await api.get_job(name)
                for record in follower.new():
                    last = record
                    if record.event is ProgressEvent.STARTED:
                        began_at = record.resumed_from.step if record.resumed_from else 0
                    if as_json:
                        show(record, as_json=True)
                if errors.is_terminal:
                    live.update(_table(view, last, began_at), refresh=True)
                if view.state in ENDED:
                    # The market may say it before the broker has taken the enclave's last record.
                    told = last is not None and last.event is ProgressEvent.FINISHED
                    if told or view.state is not JobState.SUCCEEDED or last_words == 0:
                        return view
                    last_words -= 1
                await asyncio.sleep(POLL_SECONDS)


def _table(view: JobView, last: Progress | None, began_at: int) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("state", view.state.value)
    if view.waiting_for:
        table.add_row("waiting for", Text(clean(view.waiting_for)))
    table.add_row("generation", str(view.generation))
    table.add_row("cost so far", f"{view.money.captured:,} of {view.money.reserved:,} microcredits")
    if last is not None:
        _add_record(table, last, began_at)
    return table


def _add_record(table: Table, last: Progress, began_at: int) -> None:
    table.add_row("step", f"{last.step} of {last.steps}")
    for each in last.measures:
        table.add_row(each.measure, each.value)
    if last.milliseconds and last.step:
        seconds = last.milliseconds / 1000
        table.add_row("tokens/s", f"{last.tokens / seconds:,.0f}")
    if (left := seconds_left(last, began_at)) is not None:
        table.add_row("time left", f"{left:,.0f} s")
    if last.text:
        table.add_row("says", Text(clean(last.text, limit=TEXT_CHARACTERS_MAX, keep="\n")))


def seconds_left(last: Progress, began_at: int) -> float | None:
    """Until the last step, at the speed of this generation so far; None before its first step.

    `began_at` is the step after which this generation began.
    """
    taken = last.step - began_at
    return None if taken <= 0 else (last.steps - last.step) * last.milliseconds / 1000 / taken


@job.command("list")
def list_jobs(
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List this party's jobs, newest first: state, and what its hold has become."""
    opened, keys = open_home(home, key_file)

    async def ask() -> Sequence[JobView]:
        async with market(opened, keys) as api:
            return await api.get_jobs()

    views = run(ask())
    if as_json:
        show([plain_value(each) for each in views], as_json=True)
        return
    rows = []
    for each in views:
        spent, held = f"{each.money.captured:,}", f"{each.money.reserved:,}"
        rows.append((each.job.hex(), each.state.value, spent, held, each.waiting_for or ""))
    lines(("job", "state", "spent", "held at most", "waits for"), rows)


@job.command("show")
def show_job(
    name: JobArgument,
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show a job: what the market says, and what this party's own log shows.

    `outputs` come from the last receipt, under a key that the own release log shows as attested.
    """
    opened, keys = open_home(home, key_file)
    job_name = hex_bytes(name, what="job")

    async def ask() -> dict[str, Any]:
        async with market(opened, keys) as api:
            view = await api.get_job(job_name)
            settled = await api.get_receipts(job_name)
        follower = Follower(opened, keys, job_name)
        memory = log_memory(opened, keys)
        faults = check_receipts(memory, job_name, [each.signed for each in settled])
        return {
            "market": view,
            "outputs": outputs(memory, job_name),
            "last_receipt": last_receipt(memory, job_name),
            "receipts": [each.document for each in memory.receipts.get(job_name, ())],
            "settled": [_posted(each) for each in settled],
            "receipts_that_do_not_hold": faults,
            "refused_receipts": len(faults),
            "progress": list(follower.new()),
        }

    found = plain_value(run(ask()))
    if as_json:
        show(found, as_json=True)
        return
    found["progress"] = f"{len(found['progress'])} records"
    show(found, as_json=False)
    for fault in found["receipts_that_do_not_hold"]:
        say(f"does not hold: {fault}")


def _posted(view: ReceiptView) -> dict[str, Any]:
    """What a receipt posted, by the market's account, under the receipt's own name."""
    amounts = {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}
    del amounts["signed"]
    return {"receipt": digest(view.signed[96:]), **amounts}
