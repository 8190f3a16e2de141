"""What is fetched is bounded, whole, and nothing but a file that somebody else verifies."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from provider_agent.install import fetch as fetching
from provider_agent.install.errors import BundleError, InstallError
from provider_agent.install.fetch import fetch, open_https

URL = "https://releases.example/agent"


class Server:
    """Answers from a table, and keeps books."""

    def __init__(self, **answers: bytes) -> None:
        self.answers = answers
        self.asked: list[str] = []

    @contextlib.contextmanager
    def open(self, url: str) -> Iterator[BinaryIO]:
        self.asked.append(url)
        yield io.BytesIO(self.answers["latest" if url.endswith("/latest") else "bundle"])


def test_a_newer_release_is_fetched_once(tmp_path: Path) -> None:
    server = Server(latest=b"0.2.0\n", bundle=b"content")
    assert fetch(URL, tmp_path, running="0.1.0", opener=server.open) == "0.2.0"
    assert server.asked == [f"{URL}/latest", f"{URL}/blindhost-agent-0.2.0.tar"]
    assert (tmp_path / "release.tar").read_bytes() == b"content"
    assert fetch(URL, tmp_path, running="0.1.0", opener=server.open) is None
    assert len(server.asked) == 3


@pytest.mark.parametrize("latest", [b"0.1.0", b"0.0.9", b"0.1.0\n"])
def test_what_is_not_newer_is_not_fetched(tmp_path: Path, latest: bytes) -> None:
    server = Server(latest=latest)
    assert fetch(URL, tmp_path, running="0.1.0", opener=server.open) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("latest", [b"", b"../../x", b"1.2", b"9" * 100, b"0.2.0?x", b"\xff"])
def test_no_other_word_makes_a_url(tmp_path: Path, latest: bytes) -> None:
    server = Server(latest=latest)
    with pytest.raises((BundleError, InstallError)):
        fetch(URL, tmp_path, running="0.1.0", opener=server.open)
    assert len(server.asked) == 1


def test_a_bundle_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "ARCHIVE_BYTES_MAX", 10)
    server = Server(latest=b"0.2.0", bundle=bytes(11))
    with pytest.raises(InstallError, match="over 10 bytes"):
        fetch(URL, tmp_path, running="0.1.0", opener=server.open)
    assert not (tmp_path / "release.tar").exists()


@pytest.mark.parametrize("url", ["http://releases.example", "file:///etc/passwd", "ftp://x", ""])
def test_plaintext_is_refused(url: str) -> None:
    with pytest.raises(InstallError, match="by https"):
        open_https(url)


def test_a_redirect_is_not_followed() -> None:
    handler = fetching._NoRedirect()
    assert handler.redirect_request(None, None, 302, "", {}, "http://elsewhere") is None
