"""What is measured is what runs: the copied bytes, all of them, and no others."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from provider_agent import runtime_image
from provider_agent.errors import LaunchError
from provider_agent.runtime_image import copy_image, find_runtime, measure_runtime
from tests.provider_agent.fakes import make_runtime
from trust.image import FILE_BYTES_MAX, MAIN_CONTENT, image_measurement


def _files(image: Path) -> dict[str, bytes]:
    return {
        path.relative_to(image).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in image.rglob("*")
        if path.is_file()
    }


def test_the_measurement_is_that_of_the_files_that_lie_in_the_image(
    runtime: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    measurement = copy_image(runtime, image, launch=b"launch document")
    files = _files(image)
    assert files.pop("launch") == hashlib.sha256(b"launch document").digest()
    assert (image / "__main__.py").read_bytes() == MAIN_CONTENT
    assert measurement == image_measurement(files) == measure_runtime(runtime)


@pytest.mark.parametrize(
    "path", ["enclave_runtime/simulated.py", "trust/sealing.py", "constraints.txt"]
)
def test_one_changed_byte_of_the_runtime_changes_the_measurement(
    runtime: Path, tmp_path: Path, path: str
) -> None:
    changed = tmp_path / "runtime"
    shutil.copytree(runtime, changed)
    assert measure_runtime(changed) == measure_runtime(runtime)
    (changed / path).write_bytes((changed / path).read_bytes() + b"#")
    assert measure_runtime(changed) != measure_runtime(runtime)


def test_a_file_that_changes_between_copy_and_measure_runs_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_runtime(tmp_path / "runtime")
    real = runtime_image._write

    def write_and_change(image: Path, path: str, content: bytes) -> None:
        """A host that changes each file as soon as it was copied."""
        real(image, path, content)
        if (source / path).exists():
            (source / path).write_bytes(content + b"# changed")

    monkeypatch.setattr(runtime_image, "_write", write_and_change)
    measurement = copy_image(source, tmp_path / "image", launch=b"x")
    files = _files(tmp_path / "image")
    del files["launch"]
    assert measurement == image_measurement(files)
    assert measurement != measure_runtime(source)


def test_compiled_files_and_strangers_stay_behind(runtime: Path, tmp_path: Path) -> None:
    source = tmp_path / "runtime"
    shutil.copytree(runtime, source)
    cache = source / "trust" / "__pycache__"
    cache.mkdir()
    (cache / "identity.cpython-311.pyc").write_bytes(b"poison")
    (source / "trust" / "identity.so").write_bytes(b"poison")
    (source / "sitecustomize.py").write_text("poison")
    assert copy_image(source, tmp_path / "image", launch=b"x") == measure_runtime(runtime)
    assert not [path for path in _files(tmp_path / "image") if "poison" in path or "site" in path]
    assert not list((tmp_path / "image").rglob("*.pyc"))


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    source = make_runtime(tmp_path / "runtime")
    (source / "trust" / "linked.py").symlink_to(source / "trust" / "identity.py")
    with pytest.raises(LaunchError, match="image"):
        copy_image(source, tmp_path / "image", launch=b"x")


def test_a_pipe_in_the_place_of_a_file_is_refused_and_hangs_nobody(tmp_path: Path) -> None:
    source = make_runtime(tmp_path / "runtime")
    os.mkfifo(source / "trust" / "pipe.py")
    with pytest.raises(LaunchError, match="no regular file"):
        copy_image(source, tmp_path / "image", launch=b"x")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    source = make_runtime(tmp_path / "runtime")
    (source / "trust" / "huge.py").write_bytes(bytes(FILE_BYTES_MAX + 1))
    with pytest.raises(LaunchError, match="longer than"):
        copy_image(source, tmp_path / "image", launch=b"x")


def test_a_runtime_without_a_lock_file_has_no_image(tmp_path: Path) -> None:
    source = make_runtime(tmp_path / "runtime")
    (source / "constraints.txt").unlink()
    with pytest.raises(LaunchError, match="image"):
        copy_image(source, tmp_path / "image", launch=b"x")


def test_an_image_is_never_made_over_another(runtime: Path, tmp_path: Path) -> None:
    copy_image(runtime, tmp_path / "image", launch=b"x")
    with pytest.raises(LaunchError, match="image"):
        copy_image(runtime, tmp_path / "image", launch=b"y")


def test_the_runtime_is_found_without_importing_it(tmp_path: Path, monkeypatch) -> None:
    source = make_runtime(tmp_path / "runtime")
    (source / "enclave_runtime" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(source)
    monkeypatch.delitem(__import__("sys").modules, "enclave_runtime", raising=False)
    assert find_runtime() == source
