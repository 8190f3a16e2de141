"""Programs are bounded in time and output; the real questions are asked of this machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from provider_agent.doctor import hardware
from provider_agent.doctor.hardware import HostProbe, ask_gpu_admin, parse_qmp, parse_snp_status
from provider_agent.doctor.probe import MappingProbe, RememberingProbe, run_bounded
from provider_agent.doctor.view import AbsentError, UnreadError

BDF = "0000:41:00.0"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


def test_a_program_that_ends_says_what_it_said() -> None:
    done = run_bounded(
        python("import sys; print(sys.stdin.read(), end='!'); sys.exit(3)"), given=b"x"
    )
    assert (done.status, done.text) == (3, "x!")


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, time\n"
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(600)\n"
    )
    begun = time.monotonic()
    with pytest.raises(UnreadError, match="no end after 1 s"):
        run_bounded(python(code), seconds=1)
    assert time.monotonic() - begun < 10
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 2
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in started) and time.monotonic() < deadline:
        pass
    assert not any(alive(pid) for pid in started)


def test_a_program_that_floods_is_killed() -> None:
    code = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with pytest.raises(UnreadError, match="over 1000000 bytes"):
        run_bounded(python(code), seconds=20, output_max=1_000_000)


def test_a_daemon_that_keeps_the_pipe_open_is_not_waited_for(tmp_path: Path) -> None:
    code = "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(600)"
    begun = time.monotonic()
    with pytest.raises(UnreadError, match="no end"):
        run_bounded(python(code), seconds=1)
    assert time.monotonic() - begun < 10


def test_a_program_gets_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    done = run_bounded(python("import os; print(sorted(os.environ))"))
    assert "CANARY" not in done.text
    assert "PATH" in done.text


def test_what_is_not_installed_is_absent() -> None:
    with pytest.raises(AbsentError, match="not installed"):
        run_bounded(["no-such-program-of-anybodys"])


def test_the_first_answer_stands() -> None:
    class Counting:
        asked = 0

        def ask(self, question):
            self.asked += 1
            raise AbsentError("x")

    probe = Counting()
    remembering = RememberingProbe(probe)
    for _ in range(3):
        with pytest.raises(AbsentError):
            remembering.ask(("msr", 1))
    assert probe.asked == 1


def test_a_mapping_refuses_and_lacks() -> None:
    probe = MappingProbe({("msr", 1): "!EIO"})
    with pytest.raises(UnreadError, match="msr:0x1: EIO"):
        probe.ask(("msr", 1))
    with pytest.raises(AbsentError, match="msr:0x2"):
        probe.ask(("msr", 2))


# --- the admin tool ------------------------------------------------------------------------------


def tool(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "nvidia_gpu_tools.py"
    path.write_text(body)
    return [sys.executable, "-I", str(path)]


def line(mode: str, bdf: str = BDF) -> str:
    what = f"GPU {bdf} H100-PCIE 0x2331 BAR0 0xd6042000000 CC mode is {mode}"
    return f"2026-11-24,09:00:00.000 INFO     {what}"


@pytest.mark.parametrize("mode", ["on", "off", "devtools"])
def test_the_tools_own_line_is_read(tmp_path: Path, mode: str) -> None:
    body = f"import sys\nprint('NVIDIA GPU Tools')\nprint({line(mode)!r}, file=sys.stderr)"
    assert ask_gpu_admin(tool(tmp_path, body), BDF, "cc-mode") == mode


def test_the_tools_arguments_are_fixed(tmp_path: Path) -> None:
    body = (
        "import sys\nassert sys.argv[1:] == ['--gpu-bdf=0000:41:00.0', '--query-ppcie-mode']\n"
        f"print('INFO GPU {BDF} PPCIe mode is off')"
    )
    assert ask_gpu_admin(tool(tmp_path, body), BDF, "ppcie-mode") == "off"


@pytest.mark.parametrize("bdf", ["", "--set-cc-mode=off", "0000:41:00.0 --reset", "0000:41:00.0\n"])
def test_an_address_that_is_none_is_asked_about_by_nobody(tmp_path: Path, bdf: str) -> None:
    body = f"open({str(tmp_path / 'ran')!r}, 'w')"
    with pytest.raises(UnreadError, match="is no question"):
        ask_gpu_admin(tool(tmp_path, body), bdf, "cc-mode")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "0 answers"),
        (line("on", "0000:61:00.0"), "0 answers"),
        (line("on") + "\n" + line("off"), "2 answers"),
        (line("perhaps"), "0 answers"),
        ("x ERROR    No devices found", "No devices found"),
    ],
)
def test_no_answer_and_two_answers_are_unknown(tmp_path: Path, said: str, why: str) -> None:
    with pytest.raises(UnreadError, match=why):
        ask_gpu_admin(tool(tmp_path, f"print({said!r})"), BDF, "cc-mode")


def test_a_tool_that_hangs_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "ADMIN_SECONDS_MAX", 0.5)
    with pytest.raises(UnreadError, match="no end"):
        ask_gpu_admin(tool(tmp_path, "import time; time.sleep(600)"), BDF, "cc-mode")


# --- QEMU and firmware ---------------------------------------------------------------------------


def test_qmp_answers_are_found_among_noise() -> None:
    text = (
        '{"QMP": {"version": {}}}\nwarning: a word on standard error\n{"return": {}}\n'
        '{"timestamp": {}, "event": "X"}\n{"return": {"cbitpos": 51}}\n{"return": {}}\n'
    )
    assert parse_qmp(text) == {"cbitpos": 51}


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"return": {}}\n',
        '{"return": {}}\n{"error": {"desc": "SEV is not enabled"}}\n',
        "[" * 9000,
    ],
)
def test_qmp_without_an_answer_is_unknown(text: str) -> None:
    with pytest.raises(UnreadError, match="qemu"):
        parse_qmp(text)


def test_the_firmwares_status_is_read_by_its_layout() -> None:
    content = bytes.fromhex("01 37 01 03 31000000 00000000 02000000") + bytes(
        (10, 0, 0, 0, 0, 0, 27, 88, 10, 0, 0, 0, 0, 0, 27, 88)
    )
    status = parse_snp_status(content)
    assert status["api"] == "1.55"
    assert (status["state"], status["guests"], status["build"]) == (1, 2, 49)
    assert status["rmp_initialised"] is status["alias_check_complete"] is True
    assert status["mask_chip_id"] is status["mask_chip_key"] is False
    assert status["reported_tcb"] == "0a00000000001b58"
    masked = parse_snp_status(content[:8] + bytes.fromhex("03000000") + content[12:])
    assert masked["mask_chip_id"] is masked["mask_chip_key"] is True


def test_the_boot_sector_is_one() -> None:
    sector = hardware.boot_sector()
    assert len(sector) == 512
    assert sector[-2:] == b"\x55\xaa"
    # The code loads the address of the marker, at 0x7C00 and where it stands.
    where = sector.index(hardware.BOOT_MARKER)
    assert sector[sector.index(0xBE) + 1 :][:2] == (0x7C00 + where).to_bytes(2, "little")


@pytest.mark.skipif(shutil.which(hardware.QEMU) is None, reason="takes QEMU")
def test_a_real_qemu_boots_the_sector_to_its_marker_and_nothing_else() -> None:
    """On QEMU's own emulation, so that it runs wherever QEMU does."""
    good = hardware.boot_qemu(hardware.QEMU, "tcg", "max", hardware.boot_sector())
    assert isinstance(good, int)
    assert 0 < good < 10_000
    for words in (b"another-marker\0", b"\0"):
        other = hardware.boot_sector().replace(hardware.BOOT_MARKER + b"\0", words, 1)
        said = hardware.boot_qemu(
            hardware.QEMU, "tcg", "max", other.ljust(512, b"\0")[:510] + b"\x55\xaa"
        )
        assert isinstance(said, str)
    types = hardware.ask_qmp(hardware.QEMU, "qom-list-types")
    assert isinstance(types, list)
    assert "sev-snp-guest" in {each["name"] for each in types}
    assert isinstance(hardware.boot_qemu(hardware.QEMU, "no-such", "max", b""), str)


def test_this_machine_answers_or_says_why_not(tmp_path: Path) -> None:
    probe = HostProbe(cache=tmp_path, market=None)
    clock = probe.ask(("clock",))
    assert isinstance(clock, dict)
    assert isinstance(clock["synchronised"], bool)
    assert isinstance(probe.ask(("space",)), int)
    assert isinstance(probe.ask(("qgs",)), bool)
    for question in (("msr", 0x10), ("cpuid", 1, "ecx"), ("kvm-vm-types",), ("disk-read",)):
        try:
            found = probe.ask(question)
        except UnreadError as error:
            found = str(error)
        assert isinstance(found, int) or question[0] in str(found)
    assert list(tmp_path.iterdir()) == []
    for question in (
        ("nothing",),
        ("command", "rm"),
        ("openable", "/dev/sda"),
        ("qmp", "quit"),
        ("market",),
    ):
        with pytest.raises(UnreadError):
            probe.ask(question)
