"""The cache gives what its names say or nothing, within its bounds, whatever the disk does."""

import errno
import logging
import os
import sqlite3
from pathlib import Path

import pytest

from provider_agent import cache as cache_module
from provider_agent.cache import INDEX_FILE, OBJECTS_FOLDER, PARTIAL_FOLDER, BlobCache, quota
from provider_agent.errors import AgentError
from provider_agent.frames import OBJECT_BYTES_MAX
from trust.encoding import digest

LEASE, LEASE_2 = "leas_1", "leas_2"


def _object(number: int, size: int = 1000) -> tuple[bytes, bytes]:
    content = bytes([number]) * size
    return digest(content), content


def _files(folder: Path) -> list[Path]:
    return sorted((folder / OBJECTS_FOLDER).rglob("?" * 64))


def _file(folder: Path, name: bytes) -> Path:
    return folder / OBJECTS_FOLDER / name.hex()[:2] / name.hex()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "c"


# --- what it keeps -------------------------------------------------------------------------------


def test_what_was_put_is_found_by_the_next_agent(folder: Path) -> None:
    name, content = _object(1)
    assert BlobCache(folder, bytes_max=10_000).put(name, content)
    assert BlobCache(folder, bytes_max=10_000).get(name) == content


def test_an_object_under_another_name_is_not_taken(folder: Path) -> None:
    assert not BlobCache(folder, bytes_max=10_000).put(bytes(32), b"x")
    assert _files(folder) == []


def test_an_object_that_is_too_long_is_not_taken(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=10 * OBJECT_BYTES_MAX)
    huge = bytes(OBJECT_BYTES_MAX + 1)
    assert not cache.put(digest(huge), huge)
    assert not BlobCache(folder, bytes_max=999).put(*_object(1))
    assert _files(folder) == []


def test_nobody_else_may_read_what_lies_there(folder: Path) -> None:
    BlobCache(folder, bytes_max=10_000).put(*_object(1))
    assert folder.stat().st_mode & 0o077 == 0
    assert _files(folder)[0].stat().st_mode & 0o077 == 0


# --- what goes -----------------------------------------------------------------------------------


def test_what_the_lease_used_longest_ago_used_goes_first_down_to_the_low_water(
    folder: Path,
) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    old, new = [_object(n) for n in range(5)], [_object(n) for n in range(5, 10)]
    for each in old:
        cache.put(*each, lease=LEASE)
    for each in new:
        cache.put(*each, lease=LEASE_2)
    assert cache.get(old[0][0], lease="leas_3") is not None
    cache.put(*_object(11), lease="leas_3")
    assert cache.view.bytes <= 9_000
    assert all(cache.get(name) is not None for name, _ in new)
    assert cache.get(old[0][0]) is not None
    gone = [name for name, _ in old if cache.get(name) is None]
    assert len(gone) == 2
    assert len(_files(folder)) == 9


def test_a_smaller_limit_after_a_restart_is_kept(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    for number in range(5):
        cache.put(*_object(number))
    cache.close()
    assert BlobCache(folder, bytes_max=2_000).view.bytes <= 2_000
    assert len(_files(folder)) <= 2


def test_what_a_running_lease_uses_stays_and_goes_once_it_has_ended(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=3_000)
    cache.begin(LEASE)
    mine = [_object(n) for n in range(3)]
    for each in mine:
        assert cache.put(*each, lease=LEASE)
    assert not cache.put(*_object(9), lease=LEASE_2)
    assert all(cache.get(name, lease=LEASE) for name, _ in mine)
    cache.end(LEASE)
    assert cache.put(*_object(9), lease=LEASE_2)
    assert cache.view.bytes <= 3_000


def test_a_lease_that_ran_when_its_agent_was_killed_keeps_nothing_from_the_next(
    folder: Path,
) -> None:
    cache = BlobCache(folder, bytes_max=2_000)
    cache.begin(LEASE)
    cache.put(*_object(1), lease=LEASE)
    cache.put(*_object(2), lease=LEASE)
    assert BlobCache(folder, bytes_max=2_000).put(*_object(3), lease=LEASE_2)


def test_what_the_host_pinned_stays_even_if_it_came_later(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=3_000)
    name, content = _object(1)
    cache.pin([name])
    cache.put(name, content)
    for number in range(2, 9):
        cache.put(*_object(number))
    assert cache.get(name) == content
    cache.unpin([name])
    for number in range(10, 17):
        cache.put(*_object(number))
    assert cache.get(name) is None


def test_a_drop_obeys_though_the_object_is_pinned_and_in_use(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=3_000)
    name, content = _object(1)
    cache.pin([name])
    cache.begin(LEASE)
    cache.put(name, content, lease=LEASE)
    assert cache.drop(name)
    assert cache.get(name) is None
    assert _files(folder) == []
    assert not cache.drop(name)


def test_a_command_beside_the_agent_sees_pins_and_drops_and_ends_no_lease(folder: Path) -> None:
    agent = BlobCache(folder, bytes_max=2_000)
    agent.begin(LEASE)
    agent.put(*_object(1), lease=LEASE)
    agent.put(*_object(2), lease=LEASE)
    command = BlobCache(folder, bytes_max=2_000, agent=False)
    assert [each.pinned for each in command.listed()] == [True, True]
    assert not command.put(*_object(3))  # its lease runs in another process
    assert command.drop(_object(1)[0])
    command.close()
    assert agent.get(_object(1)[0]) is None
    assert agent.view.bytes == 1_000


def test_the_quota_is_a_share_of_what_is_free_and_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    for number in range(4):
        cache.put(*_object(number))

    class Usage:
        free = 6_000

    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _path: Usage)
    assert quota(folder, None) == (6_000 + 4_000) * 60 // 100
    assert quota(folder / "not" / "there", None) == 3_600
    assert quota(folder, 7) == 7 << 20


# --- a bad disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["flip", "cut", "grow", "swap"])
def test_a_file_that_is_not_what_its_name_says_goes_and_is_said_and_comes_back(
    folder: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "blindhost.storage")
    cache = BlobCache(folder, bytes_max=10_000)
    name, content = _object(1)
    cache.put(name, content)
    broken = {
        "flip": bytes([content[0] ^ 1]) + content[1:],
        "cut": content[:-1],
        "grow": content + b"\x00",
        "swap": _object(2)[1],
    }[change]
    _file(folder, name).write_bytes(broken)
    assert cache.get(name) is None
    assert _files(folder) == []
    assert f"storage.corrupt digest={name.hex()}" in caplog.text
    assert cache.view.bytes == 0
    assert cache.put(name, content)
    assert cache.get(name) == content


def test_a_read_that_the_disk_refuses_evicts_and_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "blindhost.storage")
    cache = BlobCache(folder, bytes_max=10_000)
    name, content = _object(1)
    cache.put(name, content)

    def refuse(path: Path, mode: str) -> object:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert cache.get(name) is None
    assert "found=EIO" in caplog.text
    assert cache.get(name) is None
    assert cache.put(name, content)
    assert cache.get(name) == content


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_the_disk_refuses_leaves_nothing_and_costs_no_other_object(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cache = BlobCache(folder, bytes_max=100_000)
    for each in range(1, 21):
        assert cache.put(*_object(each))
    name, content = _object(99)

    def half(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "write_whole", half)
        assert not cache.put(name, content)
    assert cache.get(name) is None
    assert list((folder / PARTIAL_FOLDER).iterdir()) == []
    kept = sum(cache.get(_object(each)[0]) is not None for each in range(1, 21))
    assert kept == (18 if number == errno.ENOSPC else 20)  # a full disk is given a tenth back
    assert cache.put(name, content)
    assert cache.get(name) == content


def test_a_folder_that_somebody_emptied_is_no_error(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    cache.put(*_object(1))
    for path in _files(folder):
        path.unlink()
        path.parent.rmdir()
    (folder / OBJECTS_FOLDER).rmdir()
    (folder / PARTIAL_FOLDER).rmdir()
    assert cache.get(_object(1)[0]) is None
    assert not cache.put(*_object(2))
    assert BlobCache(folder, bytes_max=10_000).put(*_object(2))


# --- killed at any time --------------------------------------------------------------------------


class KilledError(BaseException):
    """SIGKILL, in-process."""


@pytest.mark.parametrize("at", ["before the file", "before its name"])
def test_an_agent_killed_while_it_writes_leaves_no_file_that_nobody_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    name, content = _object(1)
    real = cache_module.write_whole

    def killed(path: Path, data: bytes) -> None:
        if at == "before its name":
            real(path, data)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "write_whole", killed)
        with pytest.raises(KilledError):
            cache.put(name, content)
    cache.close()
    again = BlobCache(folder, bytes_max=10_000)
    assert list((folder / PARTIAL_FOLDER).iterdir()) == []
    assert again.get(name) is None
    assert again.view.bytes == 0
    assert again.put(name, content)
    assert again.get(name) == content


def test_an_agent_killed_while_it_evicts_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(folder, bytes_max=5_000)
    for number in range(5):
        cache.put(*_object(number))
    unlink, left = Path.unlink, [2]

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KilledError):
            cache.put(*_object(9, 2_000))
    cache.close()
    again = BlobCache(folder, bytes_max=5_000)
    assert again.view.bytes == sum(path.stat().st_size for path in _files(folder))


# --- the index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["lost", "garbage", "truncated"])
def test_an_index_that_is_lost_or_broken_is_made_again_from_the_files(
    folder: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "blindhost.storage")
    cache = BlobCache(folder, bytes_max=10_000)
    objects = [_object(n) for n in range(3)]
    for each in objects:
        cache.put(*each)
    cache.close()
    index = folder / INDEX_FILE
    for suffix in ("-wal", "-shm"):
        index.with_name(index.name + suffix).unlink(missing_ok=True)
    match loss:
        case "lost":
            index.unlink()
        case "garbage":
            index.write_bytes(b"this is no database" * 500)
        case _:
            index.write_bytes(index.read_bytes()[:5000])
    again = BlobCache(folder, bytes_max=10_000)
    assert [again.get(name) for name, _ in objects] == [content for _, content in objects]
    assert again.view.bytes == 3_000
    assert ("storage.corrupt index" in caplog.text) == (loss != "lost")


def test_an_index_that_breaks_while_the_agent_runs_costs_no_read(folder: Path) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    name, content = _object(1)
    cache.put(name, content)

    class Broken:
        def __getattr__(self, _name: str) -> object:
            raise sqlite3.DatabaseError("disk image is malformed")

        def close(self) -> None:
            pass

    cache._index.close()
    cache._index = Broken()
    assert cache.get(name) == content
    assert cache.put(*_object(2))


def test_without_a_disk_for_its_index_the_cache_remembers_until_it_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = cache_module.Index

    def only_in_memory(file: Path | None) -> object:
        if file is not None:
            raise sqlite3.OperationalError("unable to open database file")
        return index(None)

    monkeypatch.setattr(cache_module, "Index", only_in_memory)
    cache = BlobCache(folder, bytes_max=10_000)
    assert cache.put(*_object(1))
    assert cache.get(_object(1)[0]) == _object(1)[1]
    with pytest.raises(AgentError, match="makes it again"):
        BlobCache(folder, bytes_max=10_000, agent=False)


def test_after_another_boot_files_without_a_row_are_counted_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(folder, bytes_max=10_000)
    name, content = _object(1)
    cache.put(name, content)
    cache._index.remove(name)  # what a power cut does to a row that no fsync covered
    assert cache.get(name) is None
    cache.close()
    assert BlobCache(folder, bytes_max=10_000).view.bytes == 0
    monkeypatch.setattr(cache_module, "_boot", lambda: "another")
    again = BlobCache(folder, bytes_max=10_000)
    assert again.view.bytes == 1_000
    assert again.get(name) == content
