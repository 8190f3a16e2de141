"""A host's pricing script as a process of its own: JSON in, an integer out, and nothing else.

It is the host's own program, and still may not hurt the agent beside it: `script_child` gives it an
empty environment, a network namespace with nothing in it, no file that grows, a second of processor
and a bounded memory; here its output and its time are bounded, and its process group is killed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from provider_agent.earnings.strategies import Script, Situation, read_script
from provider_agent.errors import AgentError
from trust.encoding import INTEGER_MAX, canonical_json, digest

SECONDS_MAX: Final = 2.0
OUTPUT_BYTES_MAX: Final = 64
CHILD: Final = Path(__file__).with_name("script_child.py")


def run_script(script: Script, situation: Situation) -> int:
    """Ask the script.

    (1) It is the program that was replayed: a copy of exactly those bytes runs. (2) It gets the
    situation, and 2 s. (3) It exits with 0 and says one integer. Raises AgentError.
    """
    content = read_script(Path(script.path))
    if digest(content) != script.sha256:  # (1)
        raise AgentError("the pricing script is not the one that was replayed")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "script"
        copy.write_bytes(content)
        copy.chmod(0o500)
        output, status = _run(copy, _input(situation))  # (2)
    if status != 0:  # (3)
        raise AgentError(f"the pricing script ended with {status}")
    text = output.strip()
    if not text.isdigit() or not text.isascii() or int(text) > INTEGER_MAX:
        raise AgentError(f"the pricing script said {output[:32]!r}; an integer is wanted")
    return int(text)


def _input(situation: Situation) -> bytes:
    value: dict[str, Any] = {
        "now": situation.now,
        "floor": situation.floor,
        "idle_ms": situation.idle_ms,
        "matches": [each.to_json() for each in situation.matches],
    }
    return canonical_json(value)


def _run(copy: Path, given: bytes) -> tuple[bytes, int]:
    with tempfile.TemporaryFile() as stdin:  # a file: a script that reads nothing blocks nobody
        stdin.write(given)
        stdin.seek(0)
        child = subprocess.Popen(  # noqa: S603 - the host's own program, that it named
            [sys.executable, "-I", str(CHILD), str(copy)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
    try:
        output = _bounded(child)
        return output, child.wait(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired as error:
        raise AgentError(f"the pricing script took over {SECONDS_MAX:.0f} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _bounded(child: subprocess.Popen[bytes]) -> bytes:
    """What it says, until it closes its output. Raises AgentError above bounds."""
    assert child.stdout is not None
    until, output = time.monotonic() + SECONDS_MAX, b""
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0 and ready.select(left):
            part = os.read(child.stdout.fileno(), OUTPUT_BYTES_MAX + 1)
            if not part:
                return output
            output += part
            if len(output) > OUTPUT_BYTES_MAX:
                raise AgentError(f"the pricing script said over {OUTPUT_BYTES_MAX} bytes")
    raise AgentError(f"the pricing script took over {SECONDS_MAX:.0f} s")
