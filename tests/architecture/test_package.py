"""The wheel holds the product's packages and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_listed_packages(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\x00")
    for name in (Path(raw.decode()) for raw in files if raw):
        if not (ROOT / name).exists():
            continue  # deleted, not yet committed
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(tmp_path), str(copy)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("blindhost-*.whl")
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    listed = {name.rstrip("*") for name in tool["setuptools"]["packages"]["find"]["include"]}
    modules = {f"{name}.py" for name in tool["setuptools"].get("py-modules", [])}
    assert {name for name in top if not name.endswith(".dist-info")} == listed | modules


def test_every_package_is_pinned_and_torch_is_written_without_its_build() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all("==" in line and "+" not in line and "@" not in line for line in pins)
    assert "torch==2.13.0" in pins


def test_the_makefile_runs_every_folder_of_tests() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    named = {
        word
        for name in ("SUITES", "TOWNS")
        for line in makefile.splitlines()
        if line.startswith(name)
        for word in line.partition(":=")[2].split()
    }
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert {path.relative_to(ROOT / "tests").parts[0] for path in folders} == named
