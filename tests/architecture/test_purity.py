"""trust/ is pure by its own import statements, and no module breaks the law when it is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPURE = {
    "asyncio", "http", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "select", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
PACKAGES_OF_TRUST = {"cryptography", "rfc8785", "trust"}
PACKAGES_OF_A_VERIFIER = {"dcap_qvl", "lxml"}  # never in an enclave: an import contract says so


def imported(path: Path) -> set[str]:
    """Top-level names of all that a file imports, at its head or deeper."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "trust").rglob("*.py")), ids=str)
def test_trust_imports_nothing_that_acts(path: Path) -> None:
    names = imported(path)
    assert not names & IMPURE
    allowed = PACKAGES_OF_TRUST
    if path.parent.name in {"verifier", "evidence", "simulated"}:
        allowed = allowed | PACKAGES_OF_A_VERIFIER
    assert names - set(sys.stdlib_module_names) <= allowed


def test_the_scan_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "sly.py"
    file.write_text("def f():\n    from os import path\n", encoding="utf-8")
    assert imported(file) & IMPURE == {"os"}


def loaded_by(module: str) -> set[str]:
    """What a fresh process has loaded once it imported `module`: a static graph can't see that."""
    code = f"import sys, {module}; print(' '.join(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_trust_loads_no_other_package_of_ours() -> None:
    ours = {"marketplace", "scheduler", "provider_agent", "client", "enclave_runtime", "tui"}
    assert not loaded_by("trust.messages") & (ours | {"torch", "ray", "aiohttp", "sqlmodel"})
