"""A file is whole under its name, a child knows nothing of its parent, and a command has an end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provider_agent.install.errors import CommandError
from provider_agent.install.system import ABSENT, FOLDER, System, file_state


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(root=tmp_path)


def test_content_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_is_told(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    system.write_file("/x", b"content", 0o640)
    assert seen == [("file", False), ("folder", True)]
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_what_lies_at_a_place_is_told_apart(system: System, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert system.observe("/file") == file_state(b"x", 0o600)
    assert system.observe("/link") == "link file"
    assert system.observe("/pipe").startswith("other ")
    assert system.observe("/") == FOLDER
    assert system.observe("/absent") == ABSENT
    assert system.observe("/file/below") == ABSENT


def test_a_write_does_not_follow_a_link_that_lies_in_wait(system: System, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / ".x.blindhost-partial").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        system.write_file("/x", b"content", 0o600)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_child_gets_a_fixed_path_and_nothing_of_the_callers_environment(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_X", "sly")
    monkeypatch.setenv("PATH", "/sly")
    found = system.run(("env",)).out.split()
    assert not [line for line in found if "sly" in line]
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin" in found


def test_a_command_that_fails_hangs_or_is_absent_is_an_error(system: System) -> None:
    with pytest.raises(CommandError, match="status 3: why"):
        system.run(("sh", "-c", "echo why >&2; exit 3"))
    assert system.run(("sh", "-c", "exit 3"), allowed=(3,)).status == 3
    with pytest.raises(CommandError, match="timed out"):
        system.run(("sleep", "60"), seconds=0.05)
    with pytest.raises(CommandError, match="is absent from"):
        system.run(("no-such-program",))
