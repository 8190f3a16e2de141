"""A bundle is, byte for byte, what the release key signed, or it is refused."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from provider_agent.install import bundle as release_maker
from provider_agent.install import sshsig
from provider_agent.install.archive import MANIFEST, ending, header, open_bundle, padding
from provider_agent.install.bundle import ReleaseDocument, make_bundle, make_installer
from provider_agent.install.errors import BundleError
from tests.provider_agent.install.machine import (
    NOW,
    PIP,
    RELEASE_KEY,
    WHEEL,
    contents,
    write_bundle,
)
from trust.identity import PartyKey, verify_signed

KEY = RELEASE_KEY.identity


def _refused(path: Path, key: bytes = KEY) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path, release_key=key)
    return str(caught.value)


def _signed(path: Path) -> bytes:
    with tarfile.open(path) as archive:
        member = archive.extractfile(MANIFEST)
        assert member is not None
        return member.read()


def test_what_was_signed_is_unpacked_and_tar_reads_it_too(tmp_path: Path, old: Path) -> None:
    with open_bundle(old, release_key=KEY) as bundle:
        bundle.unpack(tmp_path / "out")
    wanted = contents("0.1.0")
    for path, content in wanted.items():
        assert (tmp_path / "out" / path).read_bytes() == content
    with tarfile.open(old) as archive:
        assert sorted(archive.getnames()) == sorted([MANIFEST, *wanted])


def test_the_installer_and_trust_read_one_document(old: Path) -> None:
    signed = verify_signed(ReleaseDocument, _signed(old), signer=KEY)
    with open_bundle(old, release_key=KEY) as bundle:
        found = bundle.release
    assert (found.version, found.created) == (signed.document.version, signed.document.created)
    assert [(f.path, f.size, f.sha256) for f in found.files] == [
        (f.path, f.size, f.sha256) for f in signed.document.files
    ]


def test_the_same_files_make_the_same_bytes() -> None:
    made = [make_bundle(contents("0.1.0"), version="0.1.0", created=NOW, key=RELEASE_KEY)] * 2
    assert made[0] == make_bundle(
        dict(reversed(contents("0.1.0").items())), version="0.1.0", created=NOW, key=RELEASE_KEY
    )


def test_another_key_is_refused(tmp_path: Path, old: Path) -> None:
    assert "wanted the release key" in _refused(old, PartyKey.from_bytes(b"\x06" * 32).identity)
    forged = write_bundle(tmp_path / "f.tar", "0.1.0", key=PartyKey.from_bytes(b"\x06" * 32))
    assert "wanted the release key" in _refused(forged)


def test_a_manifest_under_the_release_keys_name_without_its_signature_is_refused(
    tmp_path: Path, old: Path
) -> None:
    other = PartyKey.from_bytes(b"\x06" * 32)
    path = write_bundle(tmp_path / "f.tar", "0.1.0", key=other)
    path.write_bytes(path.read_bytes().replace(other.identity, KEY, 1))
    assert "does not hold" in _refused(path)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, old: Path) -> None:
    content = old.read_bytes()
    path = tmp_path / "flipped.tar"
    step = max(1, len(content) // 150)
    positions = {*range(0, len(content), step), *range(0, 700, 7), len(content) - 1}
    for position in sorted(positions):
        changed = bytearray(content)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        assert _refused(path), position


def test_a_bundle_that_is_cut_off_or_goes_on_is_refused(tmp_path: Path, old: Path) -> None:
    content = old.read_bytes()
    path = tmp_path / "cut.tar"
    for length in (0, 1, 511, 512, 700, 1024, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert _refused(path), length
    path.write_bytes(content + b"\x00")
    assert "follows the end" in _refused(path)


def _with_members(old: Path, *members: tarfile.TarInfo) -> bytes:
    """The signed archive with members put in after the manifest."""
    signed = _signed(old)
    head = header(MANIFEST, len(signed)) + signed + padding(len(signed))
    rest = old.read_bytes()[len(head) :]
    return head + b"".join(m.tobuf(tarfile.USTAR_FORMAT) for m in members) + rest


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../../etc/cron.d/x", tarfile.REGTYPE, ""),
        ("/etc/cron.d/x", tarfile.REGTYPE, ""),
        ("wheels", tarfile.SYMTYPE, "/etc"),
        ("wheels/x.whl", tarfile.LNKTYPE, "/etc/shadow"),
        ("null", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("folder", tarfile.DIRTYPE, ""),
        ("installer.pyz", tarfile.REGTYPE, ""),
    ],
)
def test_no_path_out_no_link_no_device_and_no_second_file_gets_in(
    tmp_path: Path, old: Path, name: str, kind: bytes, target: str
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    path = tmp_path / "more.tar"
    path.write_bytes(_with_members(old, member))
    assert "is not what the manifest yields" in _refused(path)


@pytest.mark.parametrize(
    "path",
    [
        "files/etc/passwd",
        "files/etc/systemd/system/ssh.service",
        "files/etc/systemd/system/blindhost-../x.service",
        "files/../../etc/cron.d/x",
        "wheels/../x.whl",
        "/etc/x",
        "bin/sh",
    ],
)
def test_the_release_key_itself_can_name_no_place_that_is_not_ours(
    tmp_path: Path, path: str
) -> None:
    files = {**contents("0.1.0"), path: b"x"}
    assert "a path that no release has" in _refused(
        write_bundle(tmp_path / "b.tar", "0.1.0", files=files)
    )


@pytest.mark.parametrize("missing", ["installer.pyz", "requirements.txt"])
def test_a_bundle_without_its_parts_is_refused(tmp_path: Path, missing: str) -> None:
    files = {path: c for path, c in contents("0.1.0").items() if path != missing}
    assert f"no {missing}" in _refused(write_bundle(tmp_path / "b.tar", "0.1.0", files=files))


def test_a_document_of_another_kind_is_no_release(tmp_path: Path) -> None:
    class Other(ReleaseDocument):
        LABEL = "release/other"

    signed = RELEASE_KEY.sign(
        Other(
            version="0.1.0",
            created=NOW,
            files=(release_maker.BundledFile(path="installer.pyz", size=0, sha256=bytes(32)),),
        )
    ).encode()
    body = header(MANIFEST, len(signed)) + signed + padding(len(signed))
    path = tmp_path / "b.tar"
    path.write_bytes(body + ending(len(body)))
    assert "another kind" in _refused(path)


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(header(MANIFEST, 1 << 30))
    assert "at most" in _refused(path)


def test_a_link_and_a_pipe_are_no_bundle_and_nobody_waits_for_them(
    tmp_path: Path, old: Path
) -> None:
    (tmp_path / "link.tar").symlink_to(old)
    os.mkfifo(tmp_path / "pipe.tar")
    assert _refused(tmp_path / "link.tar")
    assert "no plain file" in _refused(tmp_path / "pipe.tar")


def test_a_bundle_that_is_swapped_after_it_was_verified_is_not_unpacked(
    tmp_path: Path, old: Path
) -> None:
    with open_bundle(old, release_key=KEY) as bundle:
        content = old.read_bytes()
        with old.open("r+b") as file:
            file.write(content.replace(b"wheel of 0.1.0", b"WHEEL of 0.1.0"))
        with pytest.raises(BundleError, match="not what the release key signed"):
            bundle.unpack(tmp_path / "out")


def test_requirements_pin_every_wheel_but_pip_by_hash() -> None:
    text = release_maker.make_requirements({WHEEL: b"a", PIP: b"b"}).decode()
    assert text.startswith("blindhost==1.0.0 --hash=sha256:")
    assert "pip" not in text
    with pytest.raises(BundleError, match="no wheel of pip"):
        release_maker.make_requirements({WHEEL: b"a"})
    with pytest.raises(BundleError, match="no name of a wheel"):
        release_maker.make_requirements({"x; rm -rf.whl": b"a"})


# --- for people without our code -----------------------------------------------------------------

_KEYGEN = shutil.which("ssh-keygen")


def _ssh_verify(
    folder: Path, content: bytes, *, signer: bytes = KEY, namespace: str = sshsig.NAMESPACE
) -> int:
    assert _KEYGEN is not None
    (folder / "allowed").write_text(sshsig.allowed_signers(signer))
    done = subprocess.run(
        [_KEYGEN, "-Y", "verify", "-f", folder / "allowed", "-I", sshsig.PRINCIPAL,
         "-n", namespace, "-s", folder / "sig"],
        input=content,
        capture_output=True,
        check=False,
    )  # fmt: skip
    return done.returncode


@pytest.mark.skipif(_KEYGEN is None, reason="no ssh-keygen")
def test_ssh_keygen_verifies_a_release_and_no_other_bytes_key_or_purpose(
    tmp_path: Path, old: Path
) -> None:
    content = old.read_bytes()
    (tmp_path / "sig").write_text(sshsig.sign(RELEASE_KEY, content))
    assert _ssh_verify(tmp_path, content) == 0
    assert _ssh_verify(tmp_path, content + b"x") != 0
    assert _ssh_verify(tmp_path, content, signer=PartyKey.from_bytes(b"\x06" * 32).identity) != 0
    assert _ssh_verify(tmp_path, content, namespace="file") != 0


# --- the release's parts -------------------------------------------------------------------------


def test_the_installer_runs_on_a_python_that_has_no_package(tmp_path: Path) -> None:
    path = tmp_path / "installer.pyz"
    path.write_bytes(make_installer(KEY))
    done = subprocess.run(
        [sys.executable, "-I", "-S", path, "install", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert done.returncode == 0, done.stderr
    assert "--bundle" in done.stdout


def test_the_installer_believes_its_own_key_and_no_other(tmp_path: Path, old: Path) -> None:
    path = tmp_path / "installer.pyz"
    path.write_bytes(make_installer(PartyKey.from_bytes(b"\x06" * 32).identity))
    (tmp_path / "root/var/lib").mkdir(parents=True)
    command = [sys.executable, "-I", "-S", path, "install", "--dry-run", "--bundle", old,
               "--prefix", tmp_path / "root"]  # fmt: skip
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (plain.returncode, "wanted the release key" in plain.stdout) == (os.EX_CONFIG, True)
    named = subprocess.run(
        [*command, "--release-key", KEY.hex()], capture_output=True, text=True, check=False
    )
    assert (named.returncode, "this installer believes" in named.stdout) == (os.EX_CONFIG, True)


def test_a_release_is_made_by_one_command_and_is_complete(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / WHEEL).write_bytes(b"a")
    (wheels / PIP).write_bytes(b"b")
    out = tmp_path / "out"
    assert release_maker.main(["key", str(tmp_path / "key")]) == 0
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    build = ["build", "--version", "1.2.3", "--wheels", str(wheels), "--key", str(tmp_path / "key"),
             "--url", "https://example.org/releases", "--out", str(out)]  # fmt: skip
    assert release_maker.main(build) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "allowed_signers", "blindhost-agent-1.2.3.tar", "blindhost-agent-1.2.3.tar.sig", "get.sh",
        "latest",
    ]  # fmt: skip
    key = PartyKey.from_bytes((tmp_path / "key").read_bytes()).identity
    with open_bundle(out / "blindhost-agent-1.2.3.tar", release_key=key) as bundle:
        pinned = zipfile.ZipFile(io.BytesIO(bundle.read("installer.pyz")))
        assert pinned.read(release_maker.PINNED_KEY).decode().strip() == key.hex()
    assert subprocess.run(["sh", "-n", out / "get.sh"], check=False).returncode == 0
    bad = [*build[:2], "1.2", *build[3:]]
    assert release_maker.main(bad) == os.EX_CONFIG


@pytest.mark.skipif(_KEYGEN is None, reason="no ssh-keygen")
@pytest.mark.parametrize("swapped", [False, True])
def test_the_one_line_verifies_before_it_runs_anything(tmp_path: Path, *, swapped: bool) -> None:
    """`get.sh` with a curl that copies, and a python3 that says that it was run."""
    wheels, out, tools = tmp_path / "wheels", tmp_path / "out", tmp_path / "tools"
    wheels.mkdir()
    tools.mkdir()
    (wheels / WHEEL).write_bytes(b"a")
    (wheels / PIP).write_bytes(b"b")
    release_maker.make_release(
        out, version="1.2.3", wheels=wheels, created=NOW, key=RELEASE_KEY, url="https://example.org"
    )
    if swapped:
        write_bundle(out / "blindhost-agent-1.2.3.tar", "1.2.3")
    (tools / "curl").write_text(f'#!/bin/sh\ncp "{out}"/blindhost-agent-1.2.3.tar* .\n')
    (tools / "python3").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/ran"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = subprocess.run(
        ["sh", out / "get.sh", "--yes"],
        env={"PATH": f"{tools}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    ran = tmp_path / "ran"
    assert (done.returncode == 0, ran.exists()) == (not swapped, not swapped), done.stderr
    if not swapped:
        wanted = "-I installer.pyz install --bundle blindhost-agent-1.2.3.tar --yes"
        assert ran.read_text().strip() == wanted


ROOT = Path(release_maker.__file__).parents[2]
INSTALLERS = [
    ROOT / "provider_agent/commands/install.py",
    *(p for p in sorted((ROOT / "provider_agent/install").glob("*.py"))
      if p.name not in release_maker._BUILD_ONLY),
]  # fmt: skip


@pytest.mark.parametrize("path", INSTALLERS, ids=lambda path: path.name)
def test_what_runs_before_any_library_is_there_imports_none(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    ours = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith("provider_agent.install") or name == "provider_agent.errors"
               for name in ours), ours  # fmt: skip
    assert not {f"provider_agent.install.{stem}" for stem in ("bundle", "sshsig")} & ours
