"""Wheels made by hand, without a build and without a network."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

from provider_agent.install.bundle import make_installer

STANDIN = Path(__file__).with_name("standin.py")


def make_wheel(name: str, version: str, files: dict[str, bytes], *, script: str) -> bytes:
    """A pure wheel with one console script ``blindhost-agent``."""
    info = f"{name}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\nblindhost-agent = {script}\n".encode(),
    }
    lines = []
    for path, content in whole.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    record = f"{info}/RECORD"
    whole[record] = "".join([*lines, f"{record},,\n"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for path, content in whole.items():
            file.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def standin_wheel(version: str, *, behaviour: str) -> bytes:
    """The stand-in with the installer's own modules, as the installer's zipapp holds them."""
    archive = zipfile.ZipFile(io.BytesIO(make_installer(bytes(32))))
    files = {
        name: archive.read(name)
        for name in archive.namelist()
        if name.endswith(".py") and "/" in name
    }
    files["standin.py"] = STANDIN.read_bytes()
    files["standin_behaviour.py"] = f"BEHAVIOUR = {behaviour!r}\n".encode()
    return make_wheel("blindhost", version, files, script="standin:main")


def find_pip() -> tuple[str, bytes] | None:
    """A wheel of pip that the system's own Python carries; None: it carries none."""
    folders = [Path("/usr/share/python-wheels")]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "_bundled")
    for folder in folders:
        for path in sorted(folder.glob("pip-*.whl")):
            return path.name, path.read_bytes()
    return None
