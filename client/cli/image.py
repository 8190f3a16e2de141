"""`blindhost image`: publish, rebuild, witness, audit and accept releases of runtime images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli.seal import measure_checkout
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    local_time,
    now_milliseconds,
    open_home,
    say,
    show,
)
from client.files import HomeError, write_durably
from client.home import Home
from client.image_log import LogFolder
from client.image_rebuild import (
    MEASURE_COMMAND,
    Rebuilt,
    SnpBuild,
    image_digest,
    measure_snp,
    sign_rebuilt,
)
from client.images import ROLES, ImageFolder, audit, make_bundle, publish
from trust.encoding import digest, parse_json
from trust.image import MEASUREMENT_BYTES
from trust.image_release import (
    AGE_DAYS_DEFAULT,
    DAYS_DEFAULT,
    REBUILDERS_DEFAULT,
    WITNESSES_DEFAULT,
    ImageRelease,
    ReleaseBundle,
    ReleaseDemands,
)
from trust.transparency import NoteKey, parse_signature_line
from trust.verifier.reference import ReferenceValues
from trust.verifier.tdx_policy import TdxImage

LogOption = Annotated[Path, typer.Option("--log", help="The log's folder.")]
LogKeyOption = Annotated[str, typer.Option(help="The log's verifier key.")]
OutOption = Annotated[Path, typer.Option(help="Where to write it.")]
CheckoutOption = Annotated[
    Path | None, typer.Option(help="Own source: measure the simulated image that it makes.")
]
ManifestOption = Annotated[
    Path | None, typer.Option(help="The image's manifest; its SHA-256 names the image.")
]
TdxOption = Annotated[
    Path | None,
    typer.Option(help="TDX registers that a tool of yours computed: a JSON list of objects."),
]


def add_to(image: typer.Typer) -> None:
    """Add the commands to the images' group."""
    for name, command in (
        ("key", key_command),
        ("publish", publish_command),
        ("rebuild", rebuild_command),
        ("witness", witness_command),
        ("gather", gather_command),
        ("bundle", bundle_command),
        ("audit", audit_command),
        ("demand", demand_command),
        ("accept", accept_command),
        ("show", show_command),
    ):
        image.command(name)(command)


def key_command(
    role: Annotated[str, typer.Argument(help="log or witness")],
    name: Annotated[
        str, typer.Argument(help="Its name: for a log its origin, a URL without https.")
    ],
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way
) -> None:
    """Draw this home's key as a log or as a witness, and show its verifier key."""
    if role not in ROLES:
        raise typer.BadParameter(f"{role}: wanted log or witness")
    opened, keys = open_home(home, key_file)
    signer = ImageFolder(opened).new_signer(keys, role, name)
    show({"verifier_key": str(signer.key)}, as_json=as_json)


def publish_command(
    name: Annotated[str, typer.Argument(help="The image's name.")],
    number: Annotated[int, typer.Option(min=1, help="The release's number: the next one.")],
    notes: Annotated[Path, typer.Option(help="Words for people; their SHA-256 is released.")],
    log: LogOption,
    out: OutOption,
    home: HomeOption,
    snp: Annotated[
        list[str] | None, typer.Option(help="Launch measurement of an SEV-SNP guest, hex; repeat.")
    ] = None,
    tdx: TdxOption = None,
    checkout: CheckoutOption = None,
    manifest: ManifestOption = None,
    emergency: Annotated[  # noqa: FBT002
        bool, typer.Option("--emergency", help="Waiting is worse: custodians may say yes at once.")
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Append a release to a log, and sign the log's checkpoint. Nothing counts by this yet."""
    opened, keys = open_home(home, key_file)
    simulated = () if checkout is None else (measure_checkout(checkout),)
    release = ImageRelease(
        version=1,
        name=name,
        number=number,
        released_at=now_milliseconds(),
        image=image_digest(_content(manifest), simulated[0] if simulated else None),
        values=ReferenceValues(
            snp=tuple(hex_bytes(e, what="--snp", length=MEASUREMENT_BYTES) for e in snp or ()),
            tdx=_tdx_images(tdx),
            simulated=simulated,
        ),
        notes=digest(notes.read_bytes()),
        emergency=emergency,
    )
    made = publish(LogFolder(log), ImageFolder(opened).signer(keys, "log"), release)
    write_durably(out, release.encode())
    show({"release": release.digest, "size": made.size, "root": made.root}, as_json=as_json)


def rebuild_command(
    release_file: Annotated[Path, typer.Argument(help="The release.", metavar="RELEASE")],
    out: OutOption,
    home: HomeOption,
    checkout: CheckoutOption = None,
    manifest: ManifestOption = None,
    firmware: Annotated[Path | None, typer.Option(help="OVMF that you built.")] = None,
    kernel: Annotated[Path | None, typer.Option(help="Kernel that you built.")] = None,
    initrd: Annotated[Path | None, typer.Option(help="Initial file system that you built.")] = None,
    command_line: Annotated[str, typer.Option(help="The guest kernel's.")] = "",
    shape: Annotated[
        list[str] | None, typer.Option(help="vCPUs:model, e.g. 8:EPYC-v4; repeat.")
    ] = None,
    tdx: TdxOption = None,
    measure_command: Annotated[
        str, typer.Option(help="Program that computes SEV-SNP launch measurements.")
    ] = MEASURE_COMMAND,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Measure what you built from source, and sign the release if it says exactly that."""
    opened, keys = open_home(home, key_file)
    release = ImageRelease.parse(release_file.read_bytes())
    simulated = None if checkout is None else measure_checkout(checkout)
    snp: frozenset[bytes] = frozenset()
    if firmware is not None and kernel is not None and initrd is not None:
        build = SnpBuild(
            firmware=firmware,
            kernel=kernel,
            initrd=initrd,
            command_line=command_line,
            shapes=tuple(_shape(each) for each in shape or ()),
        )
        snp = measure_snp(build, measure_command)
    rebuilt = Rebuilt(
        image=image_digest(_content(manifest), simulated),
        snp=snp,
        tdx=frozenset(_tdx_images(tdx)),
        simulated=frozenset() if simulated is None else frozenset({simulated}),
    )
    signed = sign_rebuilt(opened, keys, release, rebuilt)
    write_durably(out, signed.encode())
    show({"release": signed.digest, "rebuilder": signed.signer}, as_json=as_json)


def witness_command(
    log: LogOption,
    log_key: LogKeyOption,
    out: OutOption,
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Cosign a log's newest checkpoint, if the log goes on from the one cosigned before."""
    opened, keys = open_home(home, key_file)
    line = ImageFolder(opened).witness(
        keys, LogFolder(log), NoteKey.parse(log_key), now_milliseconds()
    )
    write_durably(out, f"{line}\n".encode())
    show({"cosignature": str(line)}, as_json=as_json)


def gather_command(
    cosignature: Annotated[Path, typer.Argument(help="What `witness` wrote.")],
    witness_key: Annotated[str, typer.Option(help="That witness's verifier key.")],
    log: LogOption,
    log_key: LogKeyOption,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Add a witness's cosignature to the checkpoint of the log that it is over."""
    line = parse_signature_line(cosignature.read_text(encoding="utf-8").removesuffix("\n"))
    keys = NoteKey.parse(log_key), NoteKey.parse(witness_key)
    made = LogFolder(log).gather(line, *keys)
    show({"size": made.size, "witness": line.name}, as_json=as_json)


def bundle_command(
    release_file: Annotated[Path, typer.Argument(help="The release.", metavar="RELEASE")],
    log: LogOption,
    log_key: LogKeyOption,
    out: OutOption,
    signed: Annotated[
        list[Path] | None, typer.Option(help="What a rebuilder signed; repeat.")
    ] = None,
    witnesses: Annotated[
        int, typer.Option(min=1, help="How many cosignatures custodians want.")
    ] = WITNESSES_DEFAULT,
    since: Annotated[
        list[int] | None, typer.Option(min=1, help="Size that a custodian remembers; repeat.")
    ] = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Put a release, its signatures and its place in the log into one file for custodians."""
    release = ImageRelease.parse(release_file.read_bytes())
    bundle = make_bundle(
        LogFolder(log),
        NoteKey.parse(log_key),
        release,
        [each.read_bytes() for each in signed or ()],
        witnesses=witnesses,
        since=since or (),
    )
    write_durably(out, bundle.encode())
    show({"release": release.digest, "bundle": bundle.digest}, as_json=as_json)


def audit_command(
    log: LogOption,
    log_key: LogKeyOption,
    home: Annotated[
        Path | None, typer.Option("--home", help="Compare with what this home accepted, too.")
    ] = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Walk a whole log: signatures, tiles, roots of every checkpoint, numbers of every release."""
    memory = None if home is None else ImageFolder(Home.open(home)).memory()
    found = audit(LogFolder(log), NoteKey.parse(log_key), memory)
    if as_json:
        releases = [
            {"name": e.name, "number": e.number, "release": e.digest, "emergency": e.emergency}
            for e in found.releases
        ]
        show(
            {"size": found.checkpoint.size, "root": found.checkpoint.root, "releases": releases},
            as_json=True,
        )
        return
    for each in found.releases:
        word = "  EMERGENCY" if each.emergency else ""
        say(f"{each.name} {each.number}  {local_time(each.released_at)}  {each.digest.hex()}{word}")
    say(f"{found.checkpoint.size} entries, {found.checkpoints} checkpoints: all of it holds")


def demand_command(
    name: Annotated[str, typer.Argument(help="The image's name.")],
    rebuilder: Annotated[list[str], typer.Option(help="A rebuilder's identity, hex; repeat.")],
    witness: Annotated[list[str], typer.Option(help="A witness's verifier key; repeat.")],
    log_key: LogKeyOption,
    home: HomeOption,
    rebuilders_least: Annotated[int, typer.Option(help="How many must sign.")] = REBUILDERS_DEFAULT,
    witnesses_least: Annotated[int, typer.Option(help="How many must cosign.")] = WITNESSES_DEFAULT,
    days_least: Annotated[int, typer.Option(help="How long it must stand.")] = DAYS_DEFAULT,
    age_days_max: Annotated[int, typer.Option(help="How old it may be.")] = AGE_DAYS_DEFAULT,
    newest_alone: Annotated[  # noqa: FBT002
        bool, typer.Option("--newest-alone", help="The release before the newest does not count.")
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Say whom this home believes about images. Its market's key never counts."""
    opened = Home.open(home)
    demands = ReleaseDemands(
        name=name,
        rebuilders=tuple(hex_bytes(each, what="rebuilder") for each in rebuilder),
        rebuilders_least=rebuilders_least,
        log=log_key,
        witnesses=tuple(witness),
        witnesses_least=witnesses_least,
        days_least=days_least,
        age_days_max=age_days_max,
        previous_allowed=not newest_alone,
        never=(opened.config.market,),
    )
    ImageFolder(opened).keep_demands(demands)
    show({"demands": demands.digest}, as_json=as_json)


def accept_command(
    bundle: Annotated[Path, typer.Argument(help="What a publisher passed on.")],
    home: HomeOption,
    emergency_yes: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--yes-to-this-emergency",
            help="Sign that this emergency release counts before it has stood long enough.",
        ),
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Check a release against this home's demands, and keep what it measures as."""
    opened, keys = open_home(home, key_file)
    accepted = ImageFolder(opened).accept(
        bundle.read_bytes(), keys, now_milliseconds(), emergency_yes=emergency_yes
    )
    show(
        {
            "release": accepted.release.digest,
            "number": accepted.release.number,
            "rebuilders": accepted.rebuilders,
            "witnesses": [each.witness.name for each in accepted.stood],
            "by_consent": accepted.by_consent,
            "values": accepted.values,
        },
        as_json=as_json,
    )


def show_command(
    file: Annotated[
        Path | None, typer.Argument(help="A release or a bundle; without it, what counts here.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="This party's folder.")] = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show a release or a bundle, which is not believed by this, or what this home accepted."""
    if file is not None:
        data = file.read_bytes()
        if data.startswith(b"blindhost/v1/image-release/bundle\x00"):
            bundle = ReleaseBundle.parse(data)
            release = ImageRelease.parse(bundle.release)
            signers = [each.signer for each in bundle.signatures]
            show({"release": release.digest, "says": release, "signers": signers}, as_json=as_json)
        else:
            release = ImageRelease.parse(data)
            show({"release": release.digest, "says": release}, as_json=as_json)
        return
    if home is None:
        raise typer.BadParameter("name a file, or a --home")
    folder = ImageFolder(Home.open(home))
    memory = folder.memory()
    if memory is None:
        raise HomeError("this home has accepted no release of an image")
    values = folder.values(now_milliseconds())
    show(
        {
            "name": memory.name,
            "number": memory.newest.number,
            "size": memory.size,
            "values": values,
        },
        as_json=as_json,
    )


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _shape(text: str) -> tuple[int, str]:
    vcpus, parted, model = text.partition(":")
    if not parted or not model or not vcpus.isdecimal() or not 0 < int(vcpus) < 1 << 16:
        raise typer.BadParameter(f"{text}: wanted vCPUs:model")
    return int(vcpus), model


def _tdx_images(path: Path | None) -> tuple[TdxImage, ...]:
    """``[{"mr_td": HEX, "rtmr0": HEX, "rtmr1": HEX, "rtmr2": HEX}, …]``."""
    if path is None:
        return ()
    value: Any = parse_json(path.read_bytes())
    names = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
    if not isinstance(value, list) or any(
        not isinstance(each, dict) or set(each) != set(names) for each in value
    ):
        raise HomeError(f"{path.name}: wanted a list of objects of {json.dumps(names)}")
    return tuple(
        TdxImage(
            **{
                name: hex_bytes(str(each[name]), what=name, length=MEASUREMENT_BYTES)
                for name in names
            }
        )
        for each in value
    )
