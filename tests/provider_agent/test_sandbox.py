"""What an enclave on the simulated platform can see and touch: its image, its door, its chip."""

# ruff: noqa: ASYNC240, ASYNC221 - nothing else runs on a test's loop that would have to wait

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider_agent import sandbox
from provider_agent.errors import LaunchError
from tests.provider_agent.fakes import PROBE, Sandboxed, start_probe

WALLS = {"ipc", "mount", "network", "pid", "uts"}


@pytest_asyncio.fixture
async def started(tmp_path: Path) -> AsyncIterator[Sandboxed]:
    try:
        probe = await start_probe(tmp_path)
    except LaunchError as error:
        pytest.skip(f"this system starts no sandbox: {error}")
    try:
        if missing := WALLS - set(probe.enclosed.isolation.namespaces):
            pytest.skip(f"this system refuses {missing}: {probe.enclosed.isolation.refused}")
        yield probe
    finally:
        await probe.end()


async def test_no_path_of_the_whole_tree_can_be_written(started: Sandboxed) -> None:
    found = started.probe.ask(
        "[p for d, ds, fs in os.walk('/') if not d.startswith('/proc') and not d.count('/') > 6"
        " for p in [d] if os.access(p, os.W_OK)]"
    )
    assert found == []
    for path in ("/", "/image", "/dev", "/tmp", "/dev/shm", "/proc", "/var/tmp", "/usr/lib"):
        said = started.probe.ask(f"open({path + '/planted'!r}, 'w')")
        assert "Read-only file system" in str(said) or "No such file" in str(said), (path, said)


async def test_every_mount_is_read_only_and_none_is_left_out(started: Sandboxed) -> None:
    mounts = str(started.probe.ask("open('/proc/mounts').read()")).splitlines()
    assert len(mounts) > 6
    assert [line for line in mounts if "ro" not in line.split()[3].split(",")] == []


async def test_no_file_grows_even_where_one_could_be_opened(started: Sandboxed) -> None:
    said = started.probe.ask("os.write(os.memfd_create('leak'), b'secret')")
    assert "File too large" in str(said)


async def test_the_host_environment_stays_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINDHOST_CANARY", "planted")
    probe = await start_probe(tmp_path)
    try:
        # LC_CTYPE is Python's own, set after it started with nothing (PEP 538).
        assert set(dict(probe.probe.ask("dict(os.environ)"))) <= {"LC_CTYPE"}  # type: ignore[call-overload]
        initial = Path(f"/proc/{probe.enclosed.pid}/environ")
        if os.access(initial, os.R_OK):
            assert initial.read_bytes() == b""
        assert probe.probe.ask("sys.argv[1:]") == []
    finally:
        await probe.end()


async def test_no_descriptor_but_door_and_chip(tmp_path: Path) -> None:
    canary = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(canary, True)
    probe = await start_probe(tmp_path)
    try:
        # 6 is the connection that the probe accepted; 7 lists the folder.
        names = probe.probe.ask(
            "{n: os.readlink(f'/proc/self/fd/{n}') for n in range(64)"
            " if os.path.islink(f'/proc/self/fd/{n}')}"
        )
        assert isinstance(names, dict)
        assert sorted(int(n) for n in names) == [0, 1, 2, 3, 4, 5, 6]
        assert [names[n] for n in "012"] == ["/dev/null"] * 3
        assert all(names[n].startswith("socket:") for n in "3456")
    finally:
        await probe.end()
        os.close(canary)


async def test_network_is_a_loopback_of_its_own_that_works(started: Sandboxed) -> None:
    assert started.probe.ask("[n for _, n in socket.if_nameindex()]") == ["lo"]
    assert started.probe.ask("socket.create_server(('127.0.0.1', 29511)).getsockname()[1]") == 29511
    said = started.probe.ask("socket.create_connection(('192.0.2.1', 80), 1)")
    assert "unreachable" in str(said)


async def test_the_hosts_abstract_sockets_are_out_of_reach(
    started: Sandboxed, tmp_path: Path
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        name = f"\0canary-{os.getpid()}"
        listener.bind(name)
        listener.listen()
        said = started.probe.ask(f"socket.socket(socket.AF_UNIX).connect({name!r})")
    assert "refused" in str(said)


async def test_the_hosts_processes_cannot_be_seen(started: Sandboxed) -> None:
    assert started.probe.ask("[p for p in os.listdir('/proc') if p.isdigit()]") == ["1"]
    assert started.probe.ask("os.getpid()") == 1
    assert "No such process" in str(started.probe.ask(f"os.kill({os.getpid()}, 0)"))


async def test_the_hosts_name_is_not_told(started: Sandboxed) -> None:
    assert started.probe.ask("socket.gethostname()") == "enclave"


async def test_no_core_no_privilege_and_no_way_to_gain_one(started: Sandboxed) -> None:
    assert started.probe.ask("resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]
    assert started.probe.ask("os.getuid()") == started.enclosed.isolation.uid == 65534
    status = str(started.probe.ask("open('/proc/self/status').read()"))
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[n] for n in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert "Operation not permitted" in str(started.probe.ask("os.setuid(0)"))


async def test_forked_ranks_talk_over_the_loopback(tmp_path: Path) -> None:
    ranks = """
import os, socket
port = socket.socket(fileno=3)
server = socket.create_server(("127.0.0.1", 29511))
pid = os.fork()
if pid == 0:
    os.setsid()
    socket.create_connection(("127.0.0.1", 29511)).sendall(b"gradients")
    os._exit(0)
got = server.accept()[0].recv(64)
os.waitpid(pid, 0)
port.accept()[0].sendall(got + b"\\n")
"""
    started = await start_probe(tmp_path, program=ranks)
    try:
        assert started.probe._file.readline() == "gradients\n"
    finally:
        await started.end()


async def test_what_the_enclave_prints_reaches_nobody(tmp_path: Path) -> None:
    program = "import sys\nprint('secret')\nsys.stderr.write('secret')\nraise SystemExit(9)"
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.provider_agent.fakes import start_probe
async def main():
    started = await start_probe(Path({str(tmp_path)!r}), program={program!r})
    print("exit", await started.enclosed.wait())
    await started.end()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "exit 9\n"
    assert "secret" not in done.stderr


async def test_killing_it_kills_what_it_started(started: Sandboxed) -> None:
    started.probe.ask(
        "(lambda pid: os.execv('/proc/self/exe', ['python', '-c', 'import time; "
        "time.sleep(600)']) if pid == 0 else pid)(os.fork())"
    )
    child = Path(f"/proc/{started.enclosed.pid}/task/{started.enclosed.pid}/children")
    pids = child.read_text().split()
    assert len(pids) == 1
    assert await started.enclosed.kill() == 128 + signal.SIGKILL
    assert not Path(f"/proc/{pids[0]}").exists()
    assert not Path(f"/proc/{started.enclosed.pid}").exists()


async def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.provider_agent.fakes import start_probe
async def main():
    # It does not look at its door, so nothing but the kernel tells it.
    program = "import time; time.sleep(600)"
    started = await start_probe(Path({str(tmp_path)!r}), program=program)
    print(started.enclosed.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    with open_pidfd(pid) as gone:
        assert gone


def open_pidfd(pid: int):
    """True once the process is gone: waits on the kernel, not on a clock."""
    import contextlib
    import select

    @contextlib.contextmanager
    def opened():
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            yield True
            return
        try:
            yield bool(select.select([descriptor], [], [], 20)[0])
        finally:
            os.close(descriptor)

    return opened()


async def test_a_missing_interpreter_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises((LaunchError, FileNotFoundError)):
        await start_probe(tmp_path)


async def test_a_namespace_that_the_system_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = """
import errno, sys
sys.path.insert(0, sys.argv[1])
from provider_agent import enclosure, kernel
def refuse(flags):
    raise OSError(errno.EPERM, "refused here")
kernel.unshare = refuse
enclosure.main()
"""
    monkeypatch.setattr(sandbox, "_BOOT", boot)
    started = await start_probe(tmp_path)
    try:
        isolation = started.enclosed.isolation
        assert isolation.namespaces == ()
        assert not isolation.read_only_root
        assert {line.split(":")[0] for line in isolation.refused} == WALLS | {"user"}
        assert all("refused here" in line for line in isolation.refused)
        # It keeps its user, to read its image, and no privilege.
        status = str(started.probe.ask("open('/proc/self/status').read()"))
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {fields[n] for n in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}
        # The second wall stands alone now: no file can grow.
        said = started.probe.ask(f"os.write(os.open({str(tmp_path / 'x')!r}, 65), b'leak')")
        assert "File too large" in str(said) or "ermission denied" in str(said)
    finally:
        await started.end()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.skipif(os.getuid() != 0, reason="this test drops root's capabilities")
async def test_without_privilege_it_uses_a_user_namespace(tmp_path: Path) -> None:
    code = f"""
import asyncio, json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.provider_agent.fakes import start_probe
async def main():
    started = await start_probe(Path({str(tmp_path)!r}))
    said = started.probe.ask("open('/planted', 'w')")
    print(json.dumps([started.enclosed.isolation.to_json(), said]))
    await started.end()
asyncio.run(main())
"""
    limits = ["--bounding-set", "-all,+setfcap", "--inh-caps", "-all"]
    done = subprocess.run(
        ["setpriv", *limits, sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    import json

    assert done.returncode == 0, done.stderr
    isolation, said = json.loads(done.stdout)
    if "user" not in isolation["namespaces"]:
        pytest.skip(f"this system gives no user namespace: {isolation['refused']}")
    assert set(isolation["namespaces"]) == WALLS | {"user"}
    assert "Read-only file system" in said


def test_probe_is_python() -> None:
    compile(PROBE, "probe", "exec")
