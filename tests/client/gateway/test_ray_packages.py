"""Working directories as an adversary packs them: nothing is unpacked, and nothing stays."""

from __future__ import annotations

import asyncio
import io
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.files import HomeError
from client.gateway import ray_jobs, ray_packages
from client.gateway.ray_packages import (
    PackageError,
    PackageMissingError,
    Packages,
    PackagesFullError,
    PackageSizeError,
    list_files,
)
from tests.client.gateway.ray_rig import (
    ENTRYPOINT,
    Rig,
    package_name,
    ray_rig,
    rows,
    until,
    working_files,
    zipped,
)


def packed(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return target.getvalue()


def entry(name: str, mode: int = stat.S_IFREG | 0o600) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def patched(content: bytes, name: bytes, other: bytes) -> bytes:
    """The same zip with another name in it, of the same length, in listing and body."""
    assert len(name) == len(other)
    return content.replace(name, other)


def listed(content: bytes):
    return list_files(io.BytesIO(content), len(content))


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 1000):
        yield content[at : at + 1000]


@pytest.fixture
async def packages(tmp_path: Path):
    made = Packages(tmp_path / "uploads")
    yield made
    made.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with ray_rig(tmp_path / "gateway") as served:
        yield served


# --- names and kinds -----------------------------------------------------------------------------


def test_plain_files_are_listed_and_folders_are_not() -> None:
    assert set(listed(packed(("a/", b""), ("a/b.jsonl", b"x"), ("c", b"y")))) == {"a/b.jsonl", "c"}


@pytest.mark.parametrize(
    "name",
    [
        "../up",
        "a/../../up",
        "/etc/passwd",
        "//host/share",
        "a//b",
        "./a",
        "a/.",
        "..",
        "C:/windows",
        "a\\..\\b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
        "x" * 1025,
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(PackageError):
        listed(packed((entry(name), b"x")))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (packed((entry("link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "a link or a device"),
        (packed((entry("pipe", stat.S_IFIFO | 0o600), b"")), "a link or a device"),
        (packed((entry("disk", stat.S_IFBLK | 0o600), b"")), "a link or a device"),
        (packed((entry("a", stat.S_IFDIR | 0o700), b"")), "file and folder"),
        (patched(packed(("aa", b"x"), ("ab", b"y")), b"ab", b"aa"), "stands twice"),
        (packed(("a", b"x"), ("a/b", b"y")), "stands twice"),
        (packed(("a/b", b"x"), ("a", b"y")), "stands twice"),
        (patched(packed(("a_b", b"x")), b"a_b", b"a\x00b"), "NUL"),
        (b"", "no zip"),
        (b"PK\x05\x06", "no zip"),
        (b"x" * 100, "no zip"),
        (zipped() + b"x", "no zip in one piece"),
        (b"#!/bin/sh\n" + zipped(), "does not lie where"),
    ],
)
def test_what_is_no_plain_zip_of_plain_files_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(PackageError, match=says):
        listed(content)


def test_an_encrypted_entry_is_refused() -> None:
    content = bytearray(packed(("a", b"x")))
    at = content.index(b"PK\x01\x02") + 8
    content[at] |= 1
    with pytest.raises(PackageError, match="encrypted"):
        listed(bytes(content))


def test_another_compression_is_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x")
    with pytest.raises(PackageError, match="compression 14"):
        listed(target.getvalue())


def test_a_second_listing_behind_a_zip64_locator_is_not_looked_at() -> None:
    """Python's zipfile believes a locator before the end; others do not: two listings in one."""
    content = packed(("a", b"x"))
    end = content[-22:]
    offset = struct.unpack("<L", end[16:20])[0]
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    longer = bytearray(content[:-22] + locator + end)
    size = len(longer) - 22 - offset
    longer[-22 + 12 : -22 + 16] = struct.pack("<L", size)
    with pytest.raises(PackageError, match="ZIP64"):
        listed(bytes(longer))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_zips_are_refused_or_read_as_far_as_their_listing_says(data) -> None:
    content = bytearray(packed(("a", b"hello" * 50), ("b/c", b"x" * 9)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(bytes(content))
    try:
        files = list_files(file, len(content))
        package = ray_packages.Package(file=file, sha256=b"", files=files)
        for name, info in files.items():
            assert len(package.read(name, bytes_max=1 << 20)) == info.file_size
    except PackageError:
        return


# --- sizes ---------------------------------------------------------------------------------------


def test_a_listing_with_too_many_entries_is_refused_before_it_is_read() -> None:
    content = packed(*((f"f{number}", b"") for number in range(ray_packages.ENTRIES_MAX + 1)))
    with pytest.raises(PackageSizeError, match="4097 entries"):
        listed(content)


def test_a_listing_that_hides_entries_is_refused() -> None:
    content = bytearray(packed(*((f"f{number}", b"") for number in range(9))))
    content[-14:-10] = struct.pack("<2H", 1, 1)
    with pytest.raises(PackageError, match="9 entries, and says that it has 1"):
        listed(bytes(content))


def _claims(size: int, content: bytes) -> bytes:
    """A zip whose listing and body claim that their one file has another size."""
    whole = bytearray(packed(("train.jsonl", content)))
    listing = whole.index(b"PK\x01\x02")
    for at in (22, listing + 24):
        whole[at : at + 4] = struct.pack("<L", size)
    return bytes(whole)


def test_a_bomb_is_refused_by_its_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_packages, "UNPACKED_BYTES_MAX", 1 << 20)
    many = packed(*((f"f{number}", bytes(1 << 18)) for number in range(5)))
    assert len(many) < 1 << 13
    with pytest.raises(PackageSizeError, match="unpacks to 1310720 bytes"):
        listed(many)


@pytest.mark.parametrize("size", [10, (1 << 20) + 1])
def test_a_bomb_that_lies_about_its_size_is_cut_off(size: int, tmp_path: Path) -> None:
    content = _claims(size, bytes(1 << 20))
    file = io.BytesIO(content)
    package = ray_packages.Package(file=file, sha256=b"", files=listed(content))
    with pytest.raises(PackageError):
        package.copy("train.jsonl", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= max(size, 0)


async def test_an_upload_without_end_is_cut_off(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_packages, "PACKAGE_BYTES_MAX", 10_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    with pytest.raises(PackageSizeError):
        await packages.receive("a", endless())
    assert sent == 11_000
    assert len(packages) == 0


async def test_an_upload_that_stands_still_is_given_up(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_packages, "IDLE_SECONDS", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"PK"
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await packages.receive("a", stalled())
    assert len(packages) == 0


# --- waiting -------------------------------------------------------------------------------------


async def test_each_upload_is_for_one_job(packages: Packages) -> None:
    content = zipped()
    for _ in range(2):
        await packages.receive("a", pieces(content))
    first, second = packages.take("a"), packages.take("a")
    assert first.file is not second.file
    assert first.read("train.jsonl", bytes_max=1 << 20) == rows(5)
    with pytest.raises(PackageMissingError):
        packages.take("a")
    first.file.close()
    second.file.close()


async def test_two_contents_under_one_name_are_nobodys(packages: Packages) -> None:
    await packages.receive("a", pieces(zipped()))
    await packages.receive("a", pieces(zipped({"job.json": b"{}"})))
    with pytest.raises(PackageMissingError, match="two different ones"):
        packages.take("a")
    assert len(packages) == 0


async def test_so_many_uploads_wait_and_no_more(packages: Packages) -> None:
    for number in range(ray_packages.PACKAGES_MAX):
        await packages.receive(f"{number}", pieces(zipped()))
    with pytest.raises(PackagesFullError):
        await packages.receive("more", pieces(zipped()))


async def test_an_upload_without_a_job_is_dropped_after_a_while(
    packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_packages, "WAIT_SECONDS", 0.01)
    await packages.receive("a", pieces(zipped()))
    await until(lambda: len(packages) == 0)


async def test_uploads_have_no_name_and_copies_have_one_for_a_moment(
    packages: Packages, tmp_path: Path
) -> None:
    folder = tmp_path / "uploads"
    await packages.receive("a", pieces(zipped()))
    assert list(folder.iterdir()) == []
    package = packages.take("a")

    async def seal() -> None:
        async with packages.copied(package, "train.jsonl") as path:
            assert path.read_bytes() == rows(5)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await seal()
    assert list(folder.iterdir()) == []
    package.file.close()


def test_what_a_killed_gateway_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    script = (
        "import os, sys; from pathlib import Path\n"
        "from client.gateway.ray_packages import Packages\n"
        "p = Packages(Path(sys.argv[1])); (Path(sys.argv[1]) / 'tmpx').mkdir()\n"
        "(Path(sys.argv[1]) / 'tmpx' / 'rows.jsonl').write_text('secret'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert (done.returncode, (folder / "tmpx" / "rows.jsonl").read_text()) == (9, "secret")
    (folder / "link").symlink_to(tmp_path)
    started = Packages(folder)
    assert list(folder.iterdir()) == []
    assert tmp_path.is_dir()
    started.close()


async def test_two_gateways_do_not_share_a_folder(packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="another gateway's"):
        Packages(tmp_path / "uploads")


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(HomeError):
        Packages(folder)


def test_a_folder_of_its_own_is_removed_at_the_end() -> None:
    made = Packages(None)
    folder = made._folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    made.close()
    assert not folder.exists()


# --- over HTTP -----------------------------------------------------------------------------------


async def test_no_package_ever_exists_for_whoever_asks(rig: Rig) -> None:
    uri = await rig.put(zipped())
    path = "/api/packages/" + uri.replace("://", "/")
    assert (await rig.ask("GET", path))[0] == 404


@pytest.mark.parametrize(
    "path",
    ["gcs/x.zip", "https/_ray_pkg_0011223344556677.zip", "gcs/_ray_pkg_00112233%2f..%2fx.zip"],
)
async def test_a_package_has_a_name_of_rays(rig: Rig, path: str) -> None:
    for method in ("GET", "PUT"):
        status, _ = await rig.ask(method, f"/api/packages/{path}", data=io.BytesIO(zipped()))
        assert status in {400, 404, 415}
    assert len(rig.ray._packages) == 0


async def test_a_bad_package_is_one_line_and_a_large_one_413(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/packages/gcs/{package_name(b'x')}"
    link = packed((entry("job.json", stat.S_IFLNK | 0o777), b"/etc/passwd"))
    status, text = await rig.ask("PUT", path, data=io.BytesIO(link))
    assert (status, text) == (400, "package: a link or a device; plain files are wanted")
    monkeypatch.setattr(ray_packages, "PACKAGE_BYTES_MAX", 10_000)
    monkeypatch.setattr(ray_jobs, "PACKAGE_BYTES_MAX", 10_000)
    assert (await rig.ask("PUT", path, data=io.BytesIO(bytes(20_000))))[0] == 413
    assert (await rig.ask("PUT", path, data=pieces(bytes(20_000))))[0] == 413
    assert len(rig.ray._packages) == 0


async def test_a_package_swapped_before_the_job_is_nobodys(rig: Rig) -> None:
    uri = await rig.put(zipped())
    other = zipped(working_files() | {"train.jsonl": rows(5, "poison")})
    await rig.put(other, name=uri.removeprefix("gcs://"))
    body = {"entrypoint": ENTRYPOINT, "runtime_env": {"working_dir": uri}}
    status, text = await rig.post(**body)
    assert (status, "two different ones" in text) == (409, True)
    status, text = await rig.post(**body)
    assert (status, "upload it again" in text) == (409, True)
    assert rig.port.submitted == []


async def test_a_broken_row_is_named_and_its_plaintext_is_gone(rig: Rig) -> None:
    uri = await rig.put(zipped(working_files() | {"rows/eval.jsonl": rows(2) + b'{"secret": 1}\n'}))
    status, text = await rig.post(entrypoint=ENTRYPOINT, runtime_env={"working_dir": uri})
    assert status == 400
    assert text.startswith("rows/eval.jsonl: line 3: ")
    assert "secret" not in text
    assert rig.leftovers() == []
    assert await rig.port.files() == []
    assert list(rig.folder.iterdir()) == []
