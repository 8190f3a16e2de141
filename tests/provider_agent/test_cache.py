"""The cache gives what its names say or nothing, within its bounds."""

import errno
from pathlib import Path

import pytest

from provider_agent.cache import BlobCache
from provider_agent.frames import OBJECT_BYTES_MAX
from trust.encoding import digest


def _object(number: int, size: int = 1000) -> tuple[bytes, bytes]:
    content = bytes([number]) * size
    return digest(content), content


def test_what_was_put_is_found_by_the_next_agent(tmp_path: Path) -> None:
    name, content = _object(1)
    assert BlobCache(tmp_path / "c", bytes_max=10_000).put(name, content)
    assert BlobCache(tmp_path / "c", bytes_max=10_000).get(name) == content


def test_an_object_under_another_name_is_not_taken(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=10_000)
    assert not cache.put(bytes(32), b"x")
    assert list((tmp_path / "c").iterdir()) == []


def test_it_stays_within_its_size_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=3_500)
    objects = [_object(n) for n in range(5)]
    for name, content in objects[:3]:
        cache.put(name, content)
    assert cache.get(objects[0][0]) is not None
    for name, content in objects[3:]:
        cache.put(name, content)
    assert [cache.get(name) is not None for name, _ in objects] == [True, False, False, True, True]
    assert sum(file.stat().st_size for file in (tmp_path / "c").iterdir()) <= 3_500


def test_a_smaller_limit_after_a_restart_is_kept(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=10_000)
    for number in range(5):
        cache.put(*_object(number))
    BlobCache(tmp_path / "c", bytes_max=2_000)
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_half_a_file_of_a_killed_agent_is_removed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ("ab" * 32 + ".partial")).write_bytes(b"half")
    BlobCache(tmp_path / "c", bytes_max=10_000)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_cut_or_swapped_file_counts_as_absent_and_goes(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=10_000)
    name, content = _object(1)
    cache.put(name, content)
    (tmp_path / "c" / name.hex()).write_bytes(content[:-1])
    assert cache.get(name) is None
    assert list((tmp_path / "c").iterdir()) == []
    assert cache.put(name, content)
    assert cache.get(name) == content


def test_too_long_an_object_and_a_broken_disk_are_no_error(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=10 * OBJECT_BYTES_MAX)
    huge = bytes(OBJECT_BYTES_MAX + 1)
    assert not cache.put(digest(huge), huge)
    (tmp_path / "c").rmdir()
    assert not cache.put(*_object(1))
    assert cache.get(_object(1)[0]) is None


def test_a_full_disk_costs_what_it_has_no_room_for_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(tmp_path / "c", bytes_max=10_000)
    assert cache.put(*_object(1))
    name, content = _object(2)
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        assert not cache.put(name, content)
    assert cache.get(name) is None
    assert cache.get(_object(1)[0]) == _object(1)[1]
    assert len(list((tmp_path / "c").iterdir())) == 1  # no half a file takes what room there is
    assert cache.put(name, content)
    assert cache.get(name) == content
