"""`sealing.*`: our sealed files beside openssl, age and tink, on the same bytes in the page cache.

- `open_vs_openssl_1_thread`: ciphertext in memory → plaintext in memory, with every check that an
  opener makes (segment digest, tag, padding) ÷ ``openssl speed -evp aes-256-gcm`` at 1 MiB.
- `seal_vs_openssl_1_thread`: plaintext → ciphertext and its digests, dropped ÷ the same bytes
  through openssl's aes-256-gcm and sha256 one after the other: the work that a seal must do.
- `file_vs_copy`: file → sealed file ÷ a plain copy, both synced to the disk.
- `rss_4gb_mb`: highest resident memory of a process that seals 4 GB.

Blocks alternate in one run; speeds of one thread, MB/s. Two threads work on two
files at once: Python's lock is free while OpenSSL works.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from trust.artifacts import ArtifactKind, ArtifactOpener, ArtifactSealer, Core, Custodian

SIZE: Final = 256 << 20
PIECE: Final = 1 << 20
HUGE: Final = 4_000_000_000
SEAL_HUGE: Final = """
import json, pathlib
from benchmarks.sealing import HUGE, PIECE, new_sealer
piece = bytes(PIECE)
pieces = (piece[: min(PIECE, HUGE - start)] for start in range(0, HUGE, PIECE))
count = sum(1 for _ in new_sealer(HUGE)[0].segments(pieces))
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss keeps the parent's peak
print(json.dumps([count, int(status.partition("VmHWM:")[2].split()[0])]))
"""


def new_sealer(size: int) -> tuple[ArtifactSealer, bytes]:
    """A sealer of a fresh core, and its key."""
    entry = Custodian(identity=bytes(32), lineage=b"s" + bytes(32), epoch=1)
    core = Core(kind=ArtifactKind.WEIGHTS, seal_id=os.urandom(32), custodians=(entry,), origin=None)
    key = os.urandom(32)
    sealer = ArtifactSealer(core=core, key=key, content_bytes=size, entropy=os.urandom(39))
    return sealer, key


def pieces(content: bytes) -> Iterator[bytes]:
    """As a file is read."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def speed(work: Callable[[], None], size: int = SIZE) -> tuple[float, float]:
    """(MB/s by the wall, MB/s by processor time)."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (
        size / (time.perf_counter() - wall) / 1e6,
        size / max(1e-9, time.process_time() - cpu) / 1e6,
    )


def openssl_speed(name: str) -> float:
    """MB/s of one thread at 1 MiB, by ``openssl speed``."""
    done = subprocess.run(
        ["openssl", "speed", "-mr", "-evp", name, "-bytes", str(PIECE), "-seconds", "2"],
        capture_output=True,
        check=True,
        text=True,
    )
    found = re.search(r"^\+F:\d+:[^:]+:([0-9.]+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return float(found[1]) / 1e6


def sealed(content: bytes) -> tuple[ArtifactOpener, list[bytes]]:
    """A sealed content, ready to be opened."""
    sealer, key = new_sealer(len(content))
    segments = list(sealer.segments(pieces(content)))
    opener = ArtifactOpener(
        manifest=sealer.manifest(),
        segment_list=sealer.segment_list(),
        key=key,
        first_segment=segments[0],
    )
    return opener, segments


def tink_primitive() -> Any:
    """Tink's own AES256_GCM_HKDF_1MB. Imported here: the process that seals 4 GB needs it not."""
    import tink
    from tink import streaming_aead

    streaming_aead.register()
    handle = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB)
    return handle.primitive(streaming_aead.StreamingAead)


class _Kept(io.BytesIO):
    """Tink closes what it wrote to; its bytes are wanted after that."""

    def close(self) -> None:
        self.flush()


class _Arms:
    """What is timed, each on the same content."""

    def __init__(self, content: bytes) -> None:
        import pyrage

        self._content = content
        self._opener, self._segments = sealed(content)
        self._tink, self._age = tink_primitive(), pyrage.x25519.Identity.generate()
        self._pyrage = pyrage
        self._aged = pyrage.encrypt(content, [self._age.to_public()])
        written = _Kept()
        with self._tink.new_encrypting_stream(written, b"") as stream:
            stream.write(content)
        self._tinked = written.getvalue()

    def open(self) -> None:
        for index, segment in enumerate(self._segments):
            self._opener.open(index, segment)

    def seal(self) -> None:
        for _segment in new_sealer(len(self._content))[0].segments(pieces(self._content)):
            pass

    def tink_open(self) -> None:
        with self._tink.new_decrypting_stream(io.BytesIO(self._tinked), b"") as stream:
            while stream.read(PIECE):
                pass

    def tink_seal(self) -> None:
        with self._tink.new_encrypting_stream(_Kept(), b"") as stream:
            for piece in pieces(self._content):
                stream.write(piece)

    def age_open(self) -> None:
        self._pyrage.decrypt(self._aged, [self._age])

    def age_seal(self) -> None:
        self._pyrage.encrypt(self._content, [self._age.to_public()])


def _twice(work: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(work), pool.submit(work)]:
                each.result()

    return both


def _measure(arms: _Arms, runs: int) -> dict[str, list[float]]:
    """MB/s of every arm, alternating, with openssl's own before each round."""
    seen: dict[str, list[float]] = {}
    for _ in range(runs):
        gcm, sha = openssl_speed("aes-256-gcm"), openssl_speed("sha256")
        seen.setdefault("openssl_gcm", []).append(gcm)
        seen.setdefault("openssl_gcm_then_sha256", []).append(1 / (1 / gcm + 1 / sha))
        for work in (
            arms.open, arms.seal, arms.tink_open, arms.tink_seal, arms.age_open, arms.age_seal
        ):  # fmt: skip
            wall, cpu = speed(work)
            seen.setdefault(work.__name__, []).append(wall)
            seen.setdefault(f"{work.__name__}_by_cpu", []).append(cpu)
        for work in (arms.open, arms.seal):
            twice = speed(_twice(work), 2 * SIZE)[0]
            seen.setdefault(f"{work.__name__}_2_threads", []).append(twice)
    return seen


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """All `sealing.*`."""
    content = os.urandom(PIECE) * (SIZE // PIECE)
    seen = _measure(_Arms(content), runs)
    beside = {name: round(statistics.median(values)) for name, values in seen.items()}
    for name, yardstick in (("open", "openssl_gcm"), ("seal", "openssl_gcm_then_sha256")):
        pairs = zip(seen[name], seen[yardstick], strict=True)
        ratios = [ours / openssl for ours, openssl in pairs]
        yield _figure(f"sealing.{name}_vs_openssl_1_thread", ratios, mb_per_second=beside)
    yield _figure("sealing.file_vs_copy", [_file_vs_copy(content) for _ in range(runs)])
    done = subprocess.run(
        [sys.executable, "-c", SEAL_HUGE], capture_output=True, check=True, text=True
    )
    segments_made, kib = json.loads(done.stdout)
    assert segments_made == 1 + -(-(HUGE + 8 - (PIECE - 56)) // (PIECE - 16)), segments_made
    yield {
        "figure": "sealing.rss_4gb_mb",
        "value": round(kib * 1024 / 1e6, 1),
        "unit": "MB",
        "better": "lower",
        "runs": 1,
    }


def _file_vs_copy(content: bytes) -> float:
    """Seconds of a synced copy ÷ seconds of a synced seal, of one file."""
    with tempfile.TemporaryDirectory() as folder:
        source, copy, target = (Path(folder) / name for name in ("source", "copy", "sealed"))
        source.write_bytes(content)
        os.sync()
        start = time.perf_counter()
        with source.open("rb") as a, copy.open("wb") as b:
            shutil.copyfileobj(a, b, PIECE)
            os.fsync(b.fileno())
        copied = time.perf_counter()
        with source.open("rb") as a, target.open("wb") as b:
            for segment in new_sealer(len(content))[0].segments(iter(lambda: a.read(PIECE), b"")):
                b.write(segment)
            b.flush()
            os.fsync(b.fileno())
        return (copied - start) / (time.perf_counter() - copied)


def _figure(name: str, ratios: list[float], **more: Any) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(statistics.median(ratios), 3),
        "unit": "ratio",
        "better": "higher",
        "runs": len(ratios),
        **more,
    }
