"""Reading is bounded in bytes and in place, opens no device, and never waits."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from provider_agent.doctor import view as module
from provider_agent.doctor.view import AbsentError, HostView, UnreadError


@pytest.fixture
def view(tmp_path: Path) -> HostView:
    (tmp_path / "tree").mkdir()
    return HostView(root=tmp_path / "tree")


def test_a_file_is_read_whole_or_not_at_all(view: HostView) -> None:
    (view.root / "a").write_bytes(b"x" * 100)
    assert view.content("a", most=100) == b"x" * 100
    with pytest.raises(UnreadError, match="longer than 99 bytes"):
        view.content("a", most=99)


def test_a_huge_sparse_file_costs_no_memory(view: HostView) -> None:
    with (view.root / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnreadError, match="longer than"):
        view.text("huge")
    with pytest.raises(UnreadError, match="longer than"):
        view.sha256("huge", most=1 << 20)


def test_a_file_that_never_ends_is_unread(view: HostView, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file of /proc could be: a byte each time, for ever."""
    (view.root / "a").write_bytes(b"")
    ticks = itertools.count()
    monkeypatch.setattr(os, "read", lambda *_: b"x")
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    with pytest.raises(UnreadError, match="no end after"):
        view.content("a")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_not_opened(
    view: HostView, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = view.root / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path)[-100:] if len(os.fspath(path)) > 100 else os.fspath(path))
    elif kind == "device":
        try:
            os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("making a device takes root")
    else:
        path.mkdir()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UnreadError, match="no regular file"):
        view.text("x")


def test_links_that_go_round_or_out_are_unread(view: HostView, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    (view.root / "loop").symlink_to("loop")
    (view.root / "out").symlink_to("../outside")
    (view.root / "far").symlink_to("/etc/passwd")
    (view.root / "folder").symlink_to("..")
    with pytest.raises(UnreadError, match="ELOOP"):
        view.text("loop")
    for path in ("out", "far", "folder/outside"):
        with pytest.raises(UnreadError, match="leads out of the tree"):
            view.text(path)
    with pytest.raises(UnreadError, match="leads out"):
        view.names("folder")


def test_links_inside_the_tree_are_followed(view: HostView) -> None:
    (view.root / "real").mkdir()
    (view.root / "real/a").write_text("7\n")
    (view.root / "link").symlink_to("real")
    assert view.number("link/a") == 7
    assert view.link("link") == "real"


def test_absent_is_another_thing_than_refused(
    view: HostView, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AbsentError):
        view.text("nothing")
    assert not view.exists("nothing/at/all")
    (view.root / "a").write_text("x")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadError, match="EACCES") as refused:
        view.text("a")
    assert not isinstance(refused.value, AbsentError)


def test_a_file_that_vanishes_while_it_is_read_is_unread(
    view: HostView, monkeypatch: pytest.MonkeyPatch
) -> None:
    (view.root / "a").write_text("x")

    def gone(*_: object) -> bytes:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "read", gone)
    with pytest.raises(UnreadError, match="ESRCH"):
        view.text("a")


def test_a_folder_without_end_is_unread(view: HostView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 3)
    for number in range(4):
        (view.root / str(number)).write_text("")
    with pytest.raises(UnreadError, match="over 3 entries"):
        view.names(".")


def test_a_name_with_a_zero_byte_is_unread(view: HostView) -> None:
    with pytest.raises(UnreadError):
        view.text("a\0b")
