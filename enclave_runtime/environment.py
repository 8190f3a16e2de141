"""The one place where the enclave sets process variables; nothing is read from the host's.

- `set_process_environment` comes before the first import of torch: no library may look for a
  writable folder, a network or a thread pool.
- `set_rank_environment` is what a launcher would set: accelerate reads it in each rank.
"""

from __future__ import annotations

import os
import tempfile
from typing import Final

THREADS_PER_RANK: Final = 1  # part of the compute class: more threads may sum in another order

_PROCESS: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # torch._dynamo makes its cache folder on import; "/" is there, and read-only in the sandbox.
    "TORCHINDUCTOR_CACHE_DIR": "/",
    "OMP_NUM_THREADS": str(THREADS_PER_RANK),
    "MKL_NUM_THREADS": str(THREADS_PER_RANK),
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "ACCELERATE_USE_CPU": "true",
    "GLOO_SOCKET_IFNAME": "lo",
    "MASTER_ADDR": "127.0.0.1",
}


def set_process_environment() -> None:
    """Set what every process of the enclave shares."""
    os.environ.update(_PROCESS)  # noqa: TID251 - the named place
    tempfile.tempdir = "/"  # whoever asks for a temporary file gets an error, not a file


def set_rank_environment(*, rank: int, world_size: int, port: int) -> None:
    """Set this rank's place in the world, as a launcher would."""
    os.environ.update(  # noqa: TID251 - the named place
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_PORT=str(port),
    )
