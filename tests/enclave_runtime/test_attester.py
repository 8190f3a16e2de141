"""Reports of the hardware: configfs-tsm with the kernel's own errors, and the simulated chip."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import struct
import threading
import uuid

import hypothesis
import hypothesis.strategies as st
import pytest

from enclave_runtime.attester import (
    Attester,
    KernelTsmFiles,
    SnpTsmAttester,
    TdxTsmAttester,
    ask,
    hardware_attester,
    stated,
)
from enclave_runtime.certificate_table import parse_certificate_table
from enclave_runtime.simulated import ChipAttester
from tests.trust.makers import statement
from trust.encoding import digest
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
        self.aux: bytes | None = b""
        """None: a kernel, or a platform, without auxblob."""

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
            case "auxblob" if self.aux is not None:
                return self.aux
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
    for asks in (lambda: SnpTsmAttester(tsm).report(DATA), SnpTsmAttester(tsm).check):
        with pytest.raises(EvidenceError) as error:
            asks()
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


# --- TDX, and which of the two it is -------------------------------------------------------------


def test_a_quote_is_taken_under_the_same_rules(tsm: FakeTsm) -> None:
    tsm.provider, tsm.aux = b"tdx_guest\n", None
    attester = TdxTsmAttester(tsm)
    assert attester.report(DATA) == b"report of " + DATA
    assert attester.platform == "tdx"
    assert attester.offered() == ()
    tsm.stranger_writes = True
    with pytest.raises(EvidenceError, match="generation"):
        attester.report(DATA)
    tsm.provider = b"sev_guest\n"
    with pytest.raises(EvidenceError, match="sev_guest"):
        attester.report(DATA)


@pytest.mark.parametrize(
    ("provider", "platform"), [(b"sev_guest\n", "sev-snp"), (b"tdx_guest\n", "tdx")]
)
def test_the_interface_says_which_platform_it_is(
    tsm: FakeTsm, provider: bytes, platform: str
) -> None:
    tsm.provider = provider
    assert hardware_attester(tsm).platform == platform
    assert tsm.entries == {}


def test_hardware_of_a_third_kind_is_refused(tsm: FakeTsm) -> None:
    tsm.provider = b"arm_cca_guest\n"
    with pytest.raises(EvidenceError, match="arm_cca_guest"):
        hardware_attester(tsm)


# --- what the host offers with a report ----------------------------------------------------------

VCEK, VLEK, ASK, ARK = (
    uuid.UUID(text).bytes
    for text in (
        "63da758d-e664-4564-adc5-f4b93be8accd",
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    )
)


def table(*entries: tuple[bytes, bytes], end: bytes = bytes(24)) -> bytes:
    at, head, body = 24 * (len(entries) + 1), b"", b""
    for guid, content in entries:
        head += guid + struct.pack("<II", at + len(body), len(content))
        body += content
    return head + end + body


def test_the_hosts_certificates_are_offered(tsm: FakeTsm) -> None:
    attester = SnpTsmAttester(tsm)
    assert attester.offered() == ()
    tsm.aux = table((VCEK, b"v"), (uuid.uuid4().bytes, b"?"), (ASK, b"issuer"), (ARK, b"root"))
    attester.report(DATA)
    assert attester.offered() == (("vcek", b"v"), ("ask", b"issuer"), ("ark", b"root"))
    tsm.aux = table((VLEK, b"v"), (ASK, b"issuer"), (ARK, b"root"))
    attester.report(DATA)
    assert dict(attester.offered()) == {"vlek": b"v", "asvk": b"issuer", "ark": b"root"}


WHOLE = table((VCEK, b"v" * 30), (ARK, b"r" * 30))


@pytest.mark.parametrize(
    "aux",
    [
        None,
        b"",
        WHOLE[:30],
        WHOLE[:-1],
        table((VCEK, b"v"), (VCEK, b"w")),
        table(*[(VCEK, b"")] * 16),
        table((VCEK, b"v")).ljust((1 << 17) + 1, b"\x00"),
        VCEK + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24),
    ],
)
def test_a_host_that_offers_half_a_table_offers_nothing_and_the_report_stands(
    tsm: FakeTsm, aux: bytes | None
) -> None:
    attester, tsm.aux = SnpTsmAttester(tsm), WHOLE
    attester.report(DATA)
    assert attester.offered()
    tsm.aux = aux
    assert attester.report(DATA) == b"report of " + DATA
    assert attester.offered() == ()


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_for_a_table_give_an_error_of_ours_or_parts_of_it(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        assert all(content in data for _kind, content in parse_certificate_table(data))


# --- GPUs first, the CPU last --------------------------------------------------------------------


class Spy:
    """An attester that writes down what it was asked, in order."""

    platform = "sev-snp"
    writes_under = None

    def __init__(self, gpu: bytes | None) -> None:
        self.gpu, self.asked = gpu, []

    def report(self, report_data: bytes) -> bytes:
        self.asked.append(("cpu", report_data))
        return b"report of " + report_data

    def gpu_evidence(self, nonce: bytes) -> bytes | None:
        self.asked.append(("gpu", nonce))
        return self.gpu

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        return (("vcek", b"offer"),)

    def set_ready(self) -> None:
        self.asked.append(("ready", b""))


@pytest.mark.parametrize("gpu", [None, b"what the GPUs said"])
def test_the_cpu_signs_over_what_the_gpus_said_for_the_statements_nonce(gpu: bytes | None) -> None:
    spy, plain = Spy(gpu), statement()
    attester: Attester = spy
    shown = ask(attester, plain)
    whole = dataclasses.replace(plain, gpu_evidence=None if gpu is None else digest(gpu))
    assert spy.asked == [("gpu", plain.gpu_nonce), ("cpu", whole.report_data)]
    assert (shown.gpu, shown.offered) == (gpu, (("vcek", b"offer"),))
    assert shown.report == b"report of " + stated(plain, gpu).report_data
    # The nonce is the one that a verifier computes from the statement as it was signed.
    assert whole.gpu_nonce == plain.gpu_nonce


def test_an_attester_without_gpus_shows_none_and_one_with_them_asks_them(tsm: FakeTsm) -> None:
    without, gpus = SnpTsmAttester(tsm), Spy(b"evidence")
    with_gpus = hardware_attester(tsm, gpus=gpus)
    assert without.gpu_evidence(bytes(32)) is None
    without.set_ready()
    assert gpus.asked == []
    assert with_gpus.gpu_evidence(bytes(32)) == b"evidence"
    with_gpus.set_ready()
    assert gpus.asked == [("gpu", bytes(32)), ("ready", b"")]


# --- the simulated chip --------------------------------------------------------------------------


def chip_that_answers(*answers: bytes) -> tuple[ChipAttester, list[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    asked: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the test is over
            for answer in answers:
                operation = theirs.recv(1)
                rest = theirs.recv(64 if operation == b"\x01" else 32, socket.MSG_WAITALL)
                asked.append(operation + rest)
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
    assert asked == [b"\x01" + DATA, b"\x01" + DATA[::-1]]
    assert chip.platform == "sev-snp"
    closed(chip, theirs)


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"", status=1),
        answer(b"", status=2),  # for GPUs alone
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


def test_the_chip_is_asked_for_what_its_gpu_says() -> None:
    chip, asked, theirs = chip_that_answers(answer(b"evidence"), answer(b"", status=2))
    assert chip.gpu_evidence(DATA[:32]) == b"evidence"
    assert chip.gpu_evidence(DATA[32:]) is None
    assert asked == [b"\x02" + DATA[:32], b"\x02" + DATA[32:]]
    assert chip.offered() == ()
    chip.set_ready()
    closed(chip, theirs)


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"", status=0),
        answer(b"", status=1),
        answer(b"x", status=2),  # no GPU, and yet something of it
        b"\x00" + ((1 << 19) + 1).to_bytes(4, "big"),
        answer(b"evidence")[:-1],
    ],
)
def test_a_chip_that_says_half_of_a_gpu_gives_no_evidence(bad: bytes) -> None:
    chip, _asked, theirs = chip_that_answers(bad)
    with pytest.raises(EvidenceError, match="chip"):
        chip.gpu_evidence(bytes(32))
    with pytest.raises(EvidenceError, match="chip: OSError"):
        chip.report(DATA)
    closed(chip, theirs)


def test_a_nonce_of_another_length_never_reaches_the_chip() -> None:
    ours, theirs = socket.socketpair()
    chip = ChipAttester(ours)
    with pytest.raises(EvidenceError, match="wanted 32"):
        chip.gpu_evidence(bytes(64))
    closed(chip, theirs)
