"""Coverage-guided fuzzing of what parses a stranger's bytes: `python -m tests.fuzz SECONDS [NAME]`.

Wants atheris, which is no dependency of ours: an environment with it and with this repository's.
Each target runs by itself in a process of its own, for SECONDS, one after another, from the seeds
that the golden vectors are. What libFuzzer calls a crash is a finding: any exception that is not
ours, an input that takes over `SECONDS_MAX`, more memory than `MEBIBYTES_MAX`.

`--one NAME CORPUS [libFuzzer's arguments]` is the process of one target.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Final

HERE: Final = Path(__file__).parent
SECONDS_MAX: Final = (
    5  # for one input, on a shared core and instrumented; a verification takes 5 ms
)
MEBIBYTES_MAX: Final = 1024
TARGETS: Final = tuple(sorted(path.stem for path in HERE.glob("fuzz_*.py")))


def main(arguments: list[str]) -> int:
    """Run the targets; 1 if one of them found something."""
    if arguments[:1] == ["--one"]:
        return one(arguments[1], arguments[2:])
    seconds, names = int(arguments[0]), arguments[1:] or TARGETS
    failed = False
    write("| target | seeds | executions | seconds | found |\n|---|---|---|---|---|")
    for name in names:
        failed |= not run(name, seconds)
    return int(failed)


def write(text: str) -> None:
    """A line for whoever waits: at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(name: str, seconds: int) -> bool:
    """One line of the table. False if something was found: it stands in a file, which is named."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "tests.fuzz", "--one", name, folder,
            f"-max_total_time={seconds}", f"-timeout={SECONDS_MAX}",
            f"-rss_limit_mb={MEBIBYTES_MAX}", f"-artifact_prefix={tempfile.gettempdir()}/{name}-",
        ]  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
    output = done.stdout + done.stderr
    count = re.findall(r"#(\d+)", output)
    seeds = re.findall(r"^seeds (\d+)$", output, re.MULTILINE)
    found = "nothing" if done.returncode == 0 else "; ".join(
        re.findall(r"Uncaught Python exception.*\n?.*|ERROR: .*|Test unit written to .*", output)
    ) or f"exit {done.returncode}: {output[-400:]}"  # fmt: skip
    write(
        f"| `{name}` | {seeds[-1] if seeds else 0} | {int(count[-1]) if count else 0:,} "
        f"| {took:.0f} | {found} |",
    )
    return done.returncode == 0


def one(name: str, arguments: list[str]) -> int:
    """Fuzz one target until libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["trust", "client.evidence_verify"]):
        target: ModuleType = importlib.import_module(f"tests.fuzz.{name}")
    corpus = Path(arguments[0])
    seeds = {hashlib.sha256(seed).hexdigest(): seed for seed in target.seeds()}
    for digest, seed in seeds.items():
        (corpus / digest).write_bytes(seed)
    write(f"seeds {len(seeds)}")
    longest = max(len(seed) for seed in seeds.values())
    atheris.Setup([name, f"-max_len={2 * longest}", *arguments], target.one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
