"""`blindhost model`, `dataset`, `image`: seal, publish, measure."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from client.buyer import seal_dataset
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    market,
    open_home,
    progress,
    run,
    show,
)
from client.files import HomeError
from client.keystore import Keystore
from client.market_port import HttpMarket
from client.owner import seal_model
from client.sealed import upload
from trust.artifacts import Custodian, Manifest
from trust.custody import LineageKind
from trust.image import (
    FILE_BYTES_MAX,
    LAUNCH_PATH,
    LOCK_PATH,
    MAIN_CONTENT,
    MAIN_PATH,
    PACKAGES,
    belongs,
    image_measurement,
)

model = typer.Typer(no_args_is_help=True)
dataset = typer.Typer(no_args_is_help=True)
image = typer.Typer(no_args_is_help=True)

KindOption = Annotated[
    str, typer.Option("--kind", help="real or simulated: under which roots it may ever open.")
]
LineageOption = Annotated[
    str | None, typer.Option("--lineage", help="An own lineage, hex; a new one where absent.")
]


@model.command("seal")
def seal_a_model(
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder: safetensors, no code.")],
    home: HomeOption,
    kind: KindOption,
    lineage: LineageOption = None,
    key_file: KeyFileOption = None,
    own_template: Annotated[  # noqa: FBT002
        bool, typer.Option("--own-template", help="Jobs will have to name this chat template.")
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Check a model folder and seal its weights."""
    opened, keys = open_home(home, key_file)
    entry = _entry(keys, kind, lineage)
    with progress("sealing") as step:
        sealed = seal_model(opened, keys, folder, entry, step, own_template=own_template)
    show({"artifact": sealed.digest, "lineage": entry.lineage}, as_json=as_json)


@model.command("publish")
def publish_a_model(
    artifact: Annotated[str, typer.Argument(help="Artifact id, hex.")],
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Upload a sealed model: ciphertext, public files, manifest."""
    opened, keys = open_home(home, key_file)
    name = hex_bytes(artifact, what="artifact")
    manifest = opened.load(Manifest, keys.party.identity).get(name)
    if manifest is None:
        raise HomeError("this home sealed no such artifact")

    async def send() -> int:
        async with market(opened, keys) as api:
            with progress("uploading") as step:
                return await upload(opened, manifest, HttpMarket(api), step)

    show({"artifact": name, "new_blobs": run(send())}, as_json=as_json)


@dataset.command("seal")
def seal_a_dataset(
    file: Annotated[Path, typer.Argument(help="JSONL of chat messages.")],
    home: HomeOption,
    kind: KindOption,
    lineage: LineageOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Check every line of a dataset and seal it; a broken line is named."""
    opened, keys = open_home(home, key_file)
    entry = _entry(keys, kind, lineage)
    with progress("sealing") as step:
        sealed = seal_dataset(opened, keys, file, entry, step)
    found = {
        "artifact": sealed.manifest.digest,
        "lineage": entry.lineage,
        "rows": sealed.rows,
    }
    show(found, as_json=as_json)


def _entry(keys: Keystore, kind: str, lineage: str | None) -> Custodian:
    """The named lineage's newest epoch, or a new lineage, of the kind that was said."""
    try:
        wanted = LineageKind[kind.upper()]
    except KeyError as error:
        raise typer.BadParameter("--kind is real or simulated") from error
    if lineage is None:
        return keys.new_lineage(wanted)
    name = hex_bytes(lineage, what="lineage", length=33)
    own = [each for each in keys.entries() if each.lineage == name]
    if not own or name[:1] != wanted.value:
        raise HomeError(f"this home has no {kind} lineage {lineage[:18]}…")
    return own[-1]


@image.command("measure")
def measure(
    folder: Annotated[Path, typer.Argument(help="Runtime image folder, or a source checkout.")],
    checkout: Annotated[  # noqa: FBT002
        bool, typer.Option("--checkout", help="FOLDER is own source: measure what it would make.")
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Measure a runtime image as its chip will: SHA-384 of what runs.

    Whoever pins a measurement reads the source, and measures that.
    """
    measured = measure_checkout(folder) if checkout else measure_folder(folder)
    show({"measurement": measured}, as_json=as_json)


def measure_folder(folder: Path) -> bytes:
    """SHA-384 of a runtime image, 48 bytes; nothing else may lie in the folder.

    Raises EvidenceFormatError, HomeError.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise HomeError(f"image: {name} is a link")
        if path.is_dir() or name == LAUNCH_PATH:
            continue
        if not belongs(name):
            raise HomeError(f"image: {name} does not belong in it")
        files[name] = _sha256(path, name)
    return image_measurement(files)


def measure_checkout(folder: Path) -> bytes:
    """SHA-384 of the image that this source makes, 48 bytes; other files of it stay behind.

    Raises EvidenceFormatError, HomeError.
    """
    files = {MAIN_PATH: hashlib.sha256(MAIN_CONTENT).digest()}
    places = [folder / LOCK_PATH, *(p for each in PACKAGES for p in (folder / each).rglob("*.py"))]
    for path in places:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise HomeError(f"image: {name} is no regular file")
        if belongs(name):
            files[name] = _sha256(path, name)
    return image_measurement(files)


def _sha256(path: Path, name: str) -> bytes:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise HomeError(f"image: {name} has over {FILE_BYTES_MAX} bytes")
    return hashlib.sha256(path.read_bytes()).digest()
