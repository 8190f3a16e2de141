"""Reports of the hardware: configfs-tsm with the kernel's own errors, and the simulated chip."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading

import pytest

from enclave_runtime.attester import KernelTsmFiles, SnpTsmAttester
from enclave_runtime.simulated import ChipAttester
from trust.errors import EvidenceError
from trust.evidence.snp import REPORT_BYTES

DATA = bytes(range(64))


class FakeTsm:
    """A folder that reacts to writes as the kernel's does (configfs-tsm's ABI document)."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, object]] = {}
        self.provider = b"sev_guest\n"
        self.no_hardware: int | None = None
        self.busy = 0
        self.lose_writes = False
        self.stranger_writes = False
        self.removed: list[str] = []

    def mkdir(self, path: str) -> None:
        if self.no_hardware is not None:
            raise OSError(self.no_hardware, "mkdir")
        assert path not in self.entries
        self.entries[path] = {"generation": 0, "inblob": None}

    def write(self, path: str, content: bytes) -> None:
        entry, _slash, name = path.rpartition("/")
        assert name == "inblob"
        if self.lose_writes:  # an error at close is lost: the write never happened
            return
        self.entries[entry]["inblob"] = content
        self.entries[entry]["generation"] += 2 if self.stranger_writes else 1

    def read(self, path: str) -> bytes:
        entry, _slash, name = path.rpartition("/")
        state = self.entries[entry]
        match name:
            case "provider":
                return self.provider
            case "generation":
                return b"%d\n" % state["generation"]
            case "outblob":
                if self.busy:
                    self.busy -= 1
                    raise OSError(errno.EBUSY, "outblob")
                if state["inblob"] is None or len(state["inblob"]) != 64:
                    raise OSError(errno.EINVAL, "outblob")
                return b"report of " + state["inblob"]
        raise OSError(errno.ENOENT, name)

    def rmdir(self, path: str) -> None:
        del self.entries[path]
        self.removed.append(path)


@pytest.fixture
def tsm() -> FakeTsm:
    return FakeTsm()


def test_a_report_is_of_the_data_and_its_entry_is_removed(tsm: FakeTsm) -> None:
    attester = SnpTsmAttester(tsm)
    assert attester.report(DATA) == b"report of " + DATA
    assert attester.platform == "sev-snp"
    assert tsm.entries == {}


def test_each_report_has_an_entry_of_its_own(tsm: FakeTsm) -> None:
    attester = SnpTsmAttester(tsm)
    attester.report(DATA)
    attester.report(DATA)
    assert len(set(tsm.removed)) == 2


@pytest.mark.parametrize("code", [errno.ENXIO, errno.ENOENT, errno.EROFS])
def test_a_machine_without_the_hardware_says_so(tsm: FakeTsm, code: int) -> None:
    tsm.no_hardware = code
    for ask in (lambda: SnpTsmAttester(tsm).report(DATA), SnpTsmAttester(tsm).check):
        with pytest.raises(EvidenceError) as error:
            ask()
        text = str(error.value)
        assert "no confidential-VM report interface at /sys/kernel/config/tsm/report" in text
        assert errno.errorcode[code] in text


def test_the_machine_that_this_runs_on_is_found_out_by_mkdir(tmp_path) -> None:
    missing = str(tmp_path / "tsm" / "report")
    with pytest.raises(EvidenceError, match="ENOENT"):
        SnpTsmAttester(KernelTsmFiles(), reports=missing).check()


def test_another_provider_is_refused(tsm: FakeTsm) -> None:
    tsm.provider = b"tdx_guest\n"
    with pytest.raises(EvidenceError, match="tdx_guest"):
        SnpTsmAttester(tsm).report(DATA)
    assert tsm.entries == {}


def test_a_lost_write_is_caught_by_the_kernel_or_the_generation(tsm: FakeTsm) -> None:
    tsm.lose_writes = True
    with pytest.raises(EvidenceError, match="EINVAL"):
        SnpTsmAttester(tsm).report(DATA)


def test_a_report_after_somebody_elses_write_is_refused(tsm: FakeTsm) -> None:
    tsm.stranger_writes = True
    with pytest.raises(EvidenceError, match="generation 2 after 0"):
        SnpTsmAttester(tsm).report(DATA)
    assert tsm.entries == {}


def test_a_busy_interface_is_asked_again_and_not_for_ever(tsm: FakeTsm) -> None:
    tsm.busy = 3
    assert SnpTsmAttester(tsm).report(DATA)
    tsm.busy = 1000
    with pytest.raises(EvidenceError, match="EBUSY"):
        SnpTsmAttester(tsm).report(DATA)


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_report_data_of_another_length_is_refused_before_the_kernel_is_asked(
    tsm: FakeTsm, length: int
) -> None:
    with pytest.raises(EvidenceError, match="wanted 64"):
        SnpTsmAttester(tsm).report(bytes(length))
    assert tsm.removed == []


def test_the_kernels_files_are_written_in_place_and_never_made(tmp_path) -> None:
    files = KernelTsmFiles()
    files.mkdir(str(tmp_path / "entry"))
    with pytest.raises(FileNotFoundError):
        files.write(str(tmp_path / "entry" / "inblob"), DATA)
    (tmp_path / "entry" / "inblob").write_bytes(b"")
    files.write(str(tmp_path / "entry" / "inblob"), DATA)
    assert files.read(str(tmp_path / "entry" / "inblob")) == DATA
    (tmp_path / "entry" / "inblob").unlink()
    files.rmdir(str(tmp_path / "entry"))


# --- the simulated chip --------------------------------------------------------------------------


def chip_that_answers(*answers: bytes) -> tuple[ChipAttester, list[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    asked: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the test is over
            for answer in answers:
                asked.append(theirs.recv(64, socket.MSG_WAITALL))
                theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    return ChipAttester(ours), asked, theirs


def answer(report: bytes, status: int = 0) -> bytes:
    return bytes([status]) + len(report).to_bytes(4, "big") + report


def closed(chip: ChipAttester, theirs: socket.socket) -> None:
    chip._connection.close()
    theirs.close()


def test_the_chip_is_asked_for_one_report_at_a_time() -> None:
    report = bytes(REPORT_BYTES)
    chip, asked, theirs = chip_that_answers(answer(report), answer(report[::-1]))
    assert chip.report(DATA) == report
    assert chip.report(DATA[::-1]) == report
    assert asked == [DATA, DATA[::-1]]
    assert chip.platform == "sev-snp"
    closed(chip, theirs)


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"", status=1),
        answer(bytes(REPORT_BYTES - 1)),
        answer(bytes(REPORT_BYTES + 1)),
        b"\x00" + (1 << 31).to_bytes(4, "big"),
        answer(bytes(REPORT_BYTES))[:100],
        b"",
    ],
)
def test_a_chip_that_refuses_or_breaks_off_gives_no_report(bad: bytes) -> None:
    chip, _asked, theirs = chip_that_answers(bad)
    with pytest.raises(EvidenceError, match="chip"):
        chip.report(DATA)
    # What may still come would be read as the answer to the next question.
    with pytest.raises(EvidenceError, match="chip: OSError"):
        chip.report(DATA)
    closed(chip, theirs)


def test_a_dead_chip_gives_no_report() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    chip = ChipAttester(ours)
    with pytest.raises(EvidenceError, match="chip"):
        chip.report(DATA)
    ours.close()


def test_report_data_of_another_length_never_reaches_the_chip() -> None:
    ours, theirs = socket.socketpair()
    chip = ChipAttester(ours)
    with pytest.raises(EvidenceError, match="wanted 64"):
        chip.report(bytes(32))
    closed(chip, theirs)
