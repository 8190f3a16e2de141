"""Boot in a process of its own: what is taken from the host, what is given up, what is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from enclave_runtime.__main__ import EXIT_BROKEN, LAUNCH_BYTES_MAX, read_launch
from tests.enclave_runtime.fakes import (
    FakeAgent,
    FakeAttester,
    FakeMarket,
    World,
    listener,
    open_output,
)
from trust.errors import DocumentError, EncodingError, SizeLimitError
from trust.image import LAUNCH_PATH, LOCK_PATH, MAIN_CONTENT, MAIN_PATH, PACKAGES, belongs
from trust.messages import End, ProgressEvent

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def locked(code: str, *, except_under: str = "None") -> subprocess.CompletedProcess[str]:
    """Run code under the audit hook; print what it raises."""
    indented = textwrap.indent(textwrap.dedent(code), "    ")
    return python(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, socket, subprocess, sqlite3, shutil, tempfile, pathlib\n"
        "from enclave_runtime.lockdown import ForbiddenError, refuse_writes\n"
        f"refuse_writes(except_under={except_under})\n"
        f"try:\n{indented}\n"
        "except ForbiddenError as error:\n    print('forbidden:', error)\n"
        "else:\n    print('done')\n"
    )


# --- the audit hook ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w')",
        "open({path!r}, 'ab')",
        "open({path!r}, 'x')",
        "open({existing!r}, 'r+')",
        "os.open({path!r}, os.O_CREAT | os.O_RDONLY)",
        "os.open({existing!r}, os.O_RDWR)",
        "os.open({folder!r}, os.O_TMPFILE | os.O_RDWR)",
        "pathlib.Path({path!r}).write_bytes(b'x')",
        "os.mkdir({path!r})",
        "os.remove({existing!r})",
        "os.rename({existing!r}, {path!r})",
        "os.link({existing!r}, {path!r})",
        "os.symlink({existing!r}, {path!r})",
        "os.truncate({existing!r}, 0)",
        "os.chmod({existing!r}, 0o777)",
        "tempfile.mkstemp(dir={folder!r})",
        "sqlite3.connect({path!r})",
        "subprocess.run(['true'])",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {{}})",
        "socket.socket().connect(('192.0.2.1', 80))",
        "socket.getaddrinfo('example.org', 80)",
        "socket.socket(socket.AF_UNIX).connect({path!r})",
        "socket.socket().bind(('0.0.0.0', 0))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_after_the_start_nothing_writes_runs_or_connects(tmp_path: Path, code: str) -> None:
    existing = tmp_path / "existing"
    existing.write_text("as it was")
    values = {
        "path": str(tmp_path / "new"),
        "existing": str(existing),
        "folder": str(tmp_path),
    }
    result = locked(code.format(**values))
    assert result.stdout.startswith("forbidden: "), result
    assert [p.name for p in tmp_path.iterdir()] == ["existing"]
    assert existing.read_text() == "as it was"


@pytest.mark.parametrize(
    "code",
    [
        "open({existing!r}).read()",
        "os.listdir({folder!r})",
        "os.close(os.open({folder!r}, os.O_RDONLY | os.O_DIRECTORY))",
        "open('/dev/null', 'w').close()",
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'",
        "r, w = os.pipe(); os.fdopen(w, 'wb').write(b'x'); os.close(r)",
        "s = socket.create_server(('127.0.0.1', 0)); socket.socket().connect(s.getsockname())",
        "socket.getaddrinfo('127.0.0.1', 80)",
        "import asyncio; asyncio.run(asyncio.to_thread(int))",
        "import mmap; mmap.mmap(-1, 4096)[0:1] = b'x'",
        "pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)",
    ],
)
def test_what_the_enclave_needs_still_works(tmp_path: Path, code: str) -> None:
    existing = tmp_path / "existing"
    existing.write_text("x")
    result = locked(code.format(existing=str(existing), folder=str(tmp_path)))
    assert result.stdout == "done\n", result


def test_a_fork_inherits_the_hook(tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    result = locked(
        f"""
        pid = os.fork()
        if not pid:
            try:
                open({path!r}, "w")
            except ForbiddenError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        """
    )
    assert result.stdout == "done\n", result
    assert not Path(path).exists()


def test_reports_are_asked_for_in_one_folder_and_nowhere_else(tmp_path: Path) -> None:
    reports = tmp_path / "report"
    reports.mkdir()
    inside = locked(
        f"""
        os.mkdir({str(reports / "entry")!r})
        os.rmdir({str(reports / "entry")!r})
        """,
        except_under=repr(str(reports)),
    )
    assert inside.stdout == "done\n", inside
    for outside in (tmp_path / "entry", tmp_path / "reports", reports / ".." / "entry"):
        refused = locked(f"os.mkdir({str(outside)!r})", except_under=repr(str(reports)))
        assert refused.stdout.startswith("forbidden: "), refused
    file = locked(f"os.remove({str(reports / 'x')!r})", except_under=repr(str(reports)))
    assert file.stdout.startswith("forbidden: "), file


def test_no_core_file_no_tracing_no_new_privileges() -> None:
    result = python(
        f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import ctypes, resource
        from enclave_runtime.lockdown import give_up_privileges
        give_up_privileges()
        libc = ctypes.CDLL(None)
        print(libc.prctl(3, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0))
        print(resource.getrlimit(resource.RLIMIT_CORE))
        """
    )
    assert result.stdout == "0 1\n(0, 0)\n", result


def test_the_protocol_loads_no_tensor_library() -> None:
    result = python(
        f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import enclave_runtime.session, enclave_runtime.transport
        import enclave_runtime.vault, enclave_runtime.egress, enclave_runtime.sealed
        heavy = ("torch", "numpy", "transformers", "tokenizers", "jinja2", "peft", "accelerate")
        print([name for name in heavy if name in sys.modules])
        """
    )
    assert result.stdout == "[]\n", result


# --- the launch document -------------------------------------------------------------------------


def test_the_launch_document_is_read_whole(tmp_path: Path) -> None:
    launch = World().launch
    (tmp_path / "launch").write_bytes(launch.encode())
    assert read_launch(tmp_path / "launch") == launch


def test_a_launch_document_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    data = World().launch.encode().replace(b'"generation"', b'"debug":true,"generation"')
    (tmp_path / "launch").write_bytes(data)
    with pytest.raises(DocumentError, match="unknown field 'debug'"):
        read_launch(tmp_path / "launch")


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b" ", lambda d: b""])
def test_a_cut_or_longer_launch_document_is_refused(tmp_path: Path, change) -> None:
    (tmp_path / "launch").write_bytes(change(World().launch.encode()))
    with pytest.raises(EncodingError):
        read_launch(tmp_path / "launch")


def test_a_huge_launch_document_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "launch").write_bytes(bytes(LAUNCH_BYTES_MAX + 1))
    with pytest.raises(SizeLimitError):
        read_launch(tmp_path / "launch")


# --- whole boots ---------------------------------------------------------------------------------


def test_without_the_hardware_the_boot_says_which_interface_is_missing() -> None:
    result = python(
        f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import runpy
        runpy.run_module("enclave_runtime", run_name="__main__")
        """
    )
    assert result.returncode == EXIT_BROKEN
    assert "no confidential-VM report interface at /sys/kernel/config/tsm/report" in result.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image folder, as a simulated chip lays it out."""
    folder = tmp_path / "image"
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            assert belongs(name), name
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
    (folder / MAIN_PATH).write_bytes(MAIN_CONTENT)
    shutil.copy(ROOT / "constraints.txt", folder / LOCK_PATH)
    return folder


def compiled(image: Path) -> list[Path]:
    """Compiled files: Python would run one in place of the source that was measured."""
    return list(image.rglob("*.pyc"))


class Started:
    """An enclave process with its door at 3 and 4 and a chip at 5, and nothing else."""

    def __init__(self, image: Path) -> None:
        self.name = "blindhost-test-" + os.urandom(8).hex()
        door = [listener(f"{self.name}-{port}") for port in ("messages", "blobs")]
        self._chip, theirs = socket.socketpair()
        # High numbers first: none of the three is overwritten before it is copied.
        high = [
            os.dup2(each.fileno(), 200 + number, inheritable=True)
            for number, each in enumerate([*door, theirs])
        ]
        code = (
            "import os, sys\n"
            "for to, fd in ((3, 200), (4, 201), (5, 202)):\n"
            "    os.dup2(fd, to, inheritable=True); os.close(fd)\n"
            "os.execve(sys.executable, [sys.executable, '-I', '-B', sys.argv[1]], {})\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", code, str(image)],
            env={},
            cwd="/",
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for fd in high:
            os.close(fd)
        for each in (*door, theirs):
            each.close()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while operation := self._chip.recv(1):
            asked = self._chip.recv(64 if operation == b"\x01" else 32, socket.MSG_WAITALL)
            status, report = b"\x02", b""  # no GPU here
            if operation == b"\x01":
                status, report = b"\x00", FakeAttester().report(asked)
            self._chip.sendall(status + len(report).to_bytes(4, "big") + report)

    def wait(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        output, errors = self.process.communicate(timeout=200)
        self._thread.join(timeout=10)
        self._chip.close()
        return self.process.returncode, output, errors


async def test_the_simulated_image_boots_from_its_own_folder_and_opens_its_door(
    image: Path,
) -> None:
    """A briefing for another job stops it: it read its launch document, and listens at its door."""
    world = World()
    (image / LAUNCH_PATH).write_bytes(world.launch.encode())
    started = Started(image)
    agent = FakeAgent(started.name, {})
    await agent.dial(World().briefing())
    code, output, errors = await asyncio.to_thread(started.wait)
    await agent.hang_up()
    assert code == EXIT_BROKEN
    assert f"launched for {world.job.digest.hex()}" in errors
    assert output == ""
    assert compiled(image) == []


def test_an_image_without_a_launch_document_does_not_start(image: Path) -> None:
    code, _output, errors = Started(image).wait()
    assert code == EXIT_BROKEN
    assert "launch" in errors


@pytest.mark.slow
async def test_a_whole_job_runs_in_the_image_under_the_audit_hook(image: Path) -> None:
    """Real work on two ranks: weights and rows in, sealed checkpoints and an adapter out."""
    from tests.assets import chat_rows, lora_recipe, tiny_model

    model = tiny_model()
    world = World(
        recipe=lora_recipe(steps=4),
        weights=model.weights,
        files=model.files,
        rows=chat_rows(30),
        job_changes={"rows": 30, "length_max": 128},
        terms_changes={"report_rows_min": 8, "report_tokens_min": 8},
    )
    (image / LAUNCH_PATH).write_bytes(world.launch.encode())
    started = Started(image)
    agent, market, brokers = (
        FakeAgent(started.name, world.blobs),
        FakeMarket(world),
        world.brokers(),
    )
    progress: list[bytes] = []
    agent.parties = {identity: broker.receive for identity, broker in brokers.items()}
    agent.parties[world.market.identity] = market.receive

    def to_buyer(payload: bytes) -> list[bytes]:
        if payload.startswith(b"blindhost/v1/session/progress"):
            progress.append(payload)
            return []
        return brokers[world.buyer.identity].receive(payload)

    agent.parties[world.buyer.identity] = to_buyer
    await agent.dial(world.briefing())
    code, output, errors = await asyncio.to_thread(started.wait)
    await agent.hang_up()
    records = [world.open_progress(each).document for each in progress]
    assert code == 0, (output, errors, [r.text for r in records])
    last = market.receipts[-1]
    assert (last.end, last.step) == (End.DONE, 4)
    adapter = open_output(world, last.outputs[0])
    assert b"lora_A" in adapter
    assert records[-1].event is ProgressEvent.FINISHED
    assert [m.measure for r in records for m in r.measures] == ["loss"] * 4
    carried = b"".join(f.payload for f in agent.carried) + b"".join(world.blobs.values())
    assert adapter[-64:] not in carried
    assert world.weights[-64:] not in carried
    assert world.rows[:40] not in carried
