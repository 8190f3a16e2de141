"""Make a release: ``python -m provider_agent.install.bundle build --version X.Y.Z …``.

It writes the bundle, a signature for people without our code (`sshsig`), allowed_signers,
``latest``, and ``get.sh``, which does the three steps of docs/host/install.md.

Rules:
- The same wheels, version, time and key make the same bytes.
- The installer's zipapp holds the modules that need the standard library alone, and the public half
  of the key that signed the release.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import io
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

from provider_agent.install import archive, sshsig, units
from provider_agent.install.errors import BundleError
from provider_agent.install.fetch import LATEST, bundle_name
from provider_agent.install.release import (
    FILE_BYTES_MAX,
    FILES_MAX,
    HOST_FILES,
    INSTALLER,
    LABEL,
    REQUIREMENTS,
    WHEELS,
    parse_version,
)
from trust.encoding import Digest, Document, Range, Size, Struct, UnixMilliseconds, label_bytes
from trust.errors import BlindhostError
from trust.identity import PartyKey

ALLOWED_SIGNERS: Final = "allowed_signers"
SCRIPT: Final = "get.sh"
PINNED_KEY: Final = "provider_agent/install/release-key"
_PACKAGES: Final = Path(__file__).resolve().parent.parent.parent
_BUILD_ONLY: Final = {"bundle.py", "sshsig.py"}
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
_WHEEL_NAME = re.compile(
    r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+\.whl"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BundledFile(Struct):
    """One file of a bundle, as `release.ReleaseFile` reads it."""

    path: Annotated[str, Size(least=1, most=160)]
    size: Annotated[int, Range(least=0, most=FILE_BYTES_MAX)]
    """Bytes."""
    sha256: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseDocument(Document):
    """The manifest of a bundle; the release key signs it."""

    LABEL: ClassVar[str] = "release/bundle"

    version: Annotated[str, Size(least=5, most=20)]
    created: UnixMilliseconds
    files: Annotated[tuple[BundledFile, ...], Size(least=1, most=FILES_MAX)]


assert label_bytes(ReleaseDocument.LABEL) == LABEL


# --- parts ---------------------------------------------------------------------------------------


def make_installer(identity: bytes) -> bytes:
    """The installer's zipapp, with the release key that it believes."""
    names = [
        "provider_agent/__init__.py",
        "provider_agent/errors.py",
        "provider_agent/commands/__init__.py",
        "provider_agent/commands/install.py",
        "trust/__init__.py",
        "trust/errors.py",
    ]
    folder = _PACKAGES / "provider_agent/install"
    names += [
        f"provider_agent/install/{path.name}"
        for path in sorted(folder.glob("*.py"))
        if path.name not in _BUILD_ONLY
    ]
    main = "import sys\nfrom provider_agent.commands.install import main\nsys.exit(main())\n"
    contents = {name: (_PACKAGES / name).read_bytes() for name in names}
    contents |= {"__main__.py": main.encode(), PINNED_KEY: f"{identity.hex()}\n".encode()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in sorted(contents.items()):
            file.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content, zipfile.ZIP_DEFLATED)
    return b"#!/usr/bin/env python3\n" + out.getvalue()


def make_requirements(wheels: dict[str, bytes]) -> bytes:
    """Every wheel but pip's, by exact version and hash. Raises BundleError."""
    lines, names = [], set()
    for file_name, content in sorted(wheels.items()):
        found = _WHEEL_NAME.fullmatch(file_name)
        if not found:
            raise BundleError(f"{file_name} is no name of a wheel")
        name = re.sub(r"[-_.]+", "-", found.group(1)).lower()
        if name in names:
            raise BundleError(f"two wheels of {name}")
        names.add(name)
        if name != "pip":
            sha256 = hashlib.sha256(content).hexdigest()
            lines.append(f"{name}=={found.group(2)} --hash=sha256:{sha256}\n")
    if "pip" not in names:
        raise BundleError("no wheel of pip: a host's Python need not have one")
    return "".join(lines).encode()


def make_bundle(contents: dict[str, bytes], *, version: str, created: int, key: PartyKey) -> bytes:
    """The archive of these files, by their paths in the bundle. Raises BlindhostError."""
    parse_version(version)
    files = tuple(
        BundledFile(path=path, size=len(content), sha256=hashlib.sha256(content).digest())
        for path, content in sorted(contents.items())
    )
    document = ReleaseDocument(version=version, created=created, files=files)
    signed = key.sign(document).encode()
    parts = []
    for path, content in [(archive.MANIFEST, signed), *sorted(contents.items())]:
        parts += [archive.header(path, len(content)), content, archive.padding(len(content))]
    body = b"".join(parts)
    return body + archive.ending(len(body))


def make_script(*, version: str, url: str, identity: bytes) -> str:
    """``get.sh``: download, verify, run, and nothing else."""
    name = bundle_name(version)
    return f"""\
#!/bin/sh
# Download, verify, run, as docs/host/install.md says in three steps. Arguments go to `install`.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
curl --proto '=https' --tlsv1.2 --fail --silent --show-error --remote-name-all \\
    '{url}/{name}' '{url}/{name}.sig'
cat > {ALLOWED_SIGNERS} <<'END'
{sshsig.allowed_signers(identity).strip()}
END
ssh-keygen -Y verify -f {ALLOWED_SIGNERS} -I {sshsig.PRINCIPAL} -n {sshsig.NAMESPACE} \\
    -s {name}.sig < {name}
tar -xOf {name} {INSTALLER} > {INSTALLER}
python3 -I {INSTALLER} install --bundle {name} "$@"
"""


def make_release(
    out: Path, *, version: str, wheels: Path, created: int, key: PartyKey, url: str
) -> Path:
    """Write a release into `out`; the bundle's path. Raises BlindhostError, OSError."""
    found = {path.name: path.read_bytes() for path in sorted(wheels.glob("*.whl"))}
    contents = {
        INSTALLER: make_installer(key.identity),
        REQUIREMENTS: make_requirements(found),
        **{WHEELS + name: content for name, content in found.items()},
        **{HOST_FILES + each.path: each.content.encode() for each in units.host_files()},
    }
    bundle = make_bundle(contents, version=version, created=created, key=key)
    out.mkdir(parents=True, exist_ok=True)
    path = out / bundle_name(version)
    path.write_bytes(bundle)
    archive.open_bundle(path, release_key=key.identity).close()  # what we made, a host will read
    path.with_name(f"{path.name}.sig").write_text(sshsig.sign(key, bundle), encoding="ascii")
    (out / ALLOWED_SIGNERS).write_text(sshsig.allowed_signers(key.identity), encoding="ascii")
    (out / LATEST).write_text(f"{version}\n", encoding="ascii")
    script = make_script(version=version, url=url.rstrip("/"), identity=key.identity)
    (out / SCRIPT).write_text(script, encoding="ascii")
    return path


# --- the command ---------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m provider_agent.install.bundle", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make_key = commands.add_parser("key", help="draw a release key; prints its public half")
    make_key.add_argument("file", type=Path)
    build = commands.add_parser("build", help="make a release")
    build.add_argument("--version", required=True, help="X.Y.Z")
    build.add_argument("--wheels", type=Path, required=True, help="folder of wheels, pip's too")
    build.add_argument("--key", type=Path, required=True, help="file of the release key")
    build.add_argument("--url", required=True, help="https://… where the release will lie")
    build.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        if options.command == "key":
            key = PartyKey.generate()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(options.file, flags, 0o600), "wb") as file:  # noqa: PTH123 - its mode
                file.write(key.to_bytes())
            sys.stdout.write(f"{key.identity.hex()}\n{sshsig.public_line(key.identity)}\n")
            return os.EX_OK
        path = make_release(
            options.out,
            version=options.version,
            wheels=options.wheels,
            created=int(dt.datetime.now(dt.UTC).timestamp() * 1000),  # noqa: TID251 - entry point
            key=PartyKey.from_bytes(options.key.read_bytes()),
            url=options.url,
        )
    except (BlindhostError, OSError) as error:
        sys.stderr.write(f"refused: {error}\n")
        return os.EX_CONFIG
    sys.stdout.write(f"{path}\n")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
