"""Boot: read the launch document, serve one lease, forget, exit.

Rules:
- The launch document lies beside this package and is measured. It is all that is taken from the
  host: no argument, no environment variable. Two more descriptors are inherited, the door's.
- The order: privileges and core dumps go first, then writing; only then is the door opened.
- Nothing is printed about a job. Before a key is there, the error that stopped the boot is.
- `python -m enclave_runtime` boots on real hardware or says which interface is missing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from enclave_runtime.attester import Attester, KernelTsmFiles, hardware_attester
from enclave_runtime.environment import set_process_environment
from enclave_runtime.gpu_attester import NvmlGpuAttester
from enclave_runtime.lockdown import give_up_privileges, refuse_writes
from enclave_runtime.transport import Door, MonotonicClock
from trust.errors import BlindhostError, SizeLimitError
from trust.jobs import LaunchDocument
from trust.messages import End

if TYPE_CHECKING:
    from enclave_runtime.run import Prepare

LAUNCH_PATH: Final = Path(__file__).resolve().parent.parent / "launch"
LAUNCH_BYTES_MAX: Final = 4096  # a launch document has some 400
DRIVER: Final = Path("/proc/driver/nvidia/version")  # there once NVIDIA's driver is
MESSAGES_DESCRIPTOR: Final = 3
BLOBS_DESCRIPTOR: Final = 4
EXIT_OF: Final = {End.DONE: 0, End.STOPPED: 3, End.OUT_OF_BUDGET: 4, End.REFUSED: 5, End.FAILED: 6}
EXIT_BROKEN: Final = 1


def boot(make_attester: Callable[[], Attester], launch_path: Path) -> NoReturn:
    """Serve the lease of this launch document, then exit with the code of its end.

    (1) Process variables, before the first heavy import. (2) The attester: without it nothing else
    starts. (3) The launch document. (4) No privilege, no core dump. (5) What a run imports of ours.
    (6) No writing, no program, no connection from here on, for libraries too. (7) The door, and
    the run.
    """
    set_process_environment()  # (1)
    try:
        attester = make_attester()  # (2)
        launch = read_launch(launch_path)  # (3)
        give_up_privileges()  # (4)
        from enclave_runtime.work import Work  # (5)

        refuse_writes(except_under=attester.writes_under)  # (6)
        end = asyncio.run(_serve(launch, attester, Work.prepare))  # (7)
    except BlindhostError as error:
        print(f"enclave: {error}", file=sys.stderr)  # noqa: T201 - before a key, or of the door
        sys.exit(EXIT_BROKEN)
    sys.exit(EXIT_OF[end])


def read_launch(path: Path) -> LaunchDocument:
    """Read and parse the launch document. Raises EncodingError, or OSError where there is none."""
    with path.open("rb") as file:
        content = file.read(LAUNCH_BYTES_MAX + 1)
    if len(content) > LAUNCH_BYTES_MAX:
        raise SizeLimitError(f"launch document of more than {LAUNCH_BYTES_MAX} bytes")
    return LaunchDocument.parse(content)


async def _serve(launch: LaunchDocument, attester: Attester, prepare: Prepare) -> End:
    from enclave_runtime.run import run

    clock = MonotonicClock()
    messages, blobs = (socket.socket(fileno=fd) for fd in (MESSAGES_DESCRIPTOR, BLOBS_DESCRIPTOR))
    async with Door(messages=messages, blobs=blobs, clock=clock) as door:
        return await run(launch=launch, attester=attester, door=door, clock=clock, prepare=prepare)


def main() -> NoReturn:
    """Boot on real hardware, or say that this machine gives no reports."""
    boot(_attester, LAUNCH_PATH)


def _attester() -> Attester:
    # A VM without a driver is one without GPUs; a driver whose GPUs fail stops the boot.
    gpus = NvmlGpuAttester.find() if DRIVER.exists() else None
    return hardware_attester(KernelTsmFiles(), gpus=gpus)


if __name__ == "__main__":
    main()
