"""docs/tcb.md lists exactly what the enclave loads, and its size does not grow unseen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.tcb import code_lines, modules

ROOT = Path(__file__).parents[2]
LINES_MAX = 8400  # the goal is 3,000; raised when serving came, and when GPUs and TDX did
OUTSIDE = ("trust.verifier", "trust.simulated", "trust.release")


def test_the_list_of_modules_is_the_import_graph() -> None:
    listed = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs/tcb.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(modules())


def test_nothing_that_appraises_simulates_or_releases_is_inside() -> None:
    assert not [name for name in modules() if name.startswith(OUTSIDE)]


def test_its_size_stays_below_its_ceiling() -> None:
    assert sum(code_lines(path) for path in modules().values()) <= LINES_MAX


def test_docstrings_comments_and_blank_lines_are_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text('"""Doc\n\nmore."""\n\n# comment\nx = [\n    1,  # one\n]\n', encoding="utf-8")
    assert code_lines(file) == 3


def test_the_session_loads_no_tensor_library_and_no_service() -> None:
    code = "import sys, enclave_runtime.session; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    services = {"torch", "transformers", "ray", "aiohttp", "sqlmodel", "marketplace", "client"}
    assert not set(done.stdout.split()) & services
