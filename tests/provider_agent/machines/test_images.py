"""Only an image that the host named, whole and in nobody else's hands, is launched."""

import os
from pathlib import Path

import pytest

from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.images import ImageStore
from provider_agent.machines.spec import Platform
from tests.provider_agent.machines.doubles import MEASUREMENT, make_image


def store(folder: Path, *names: bytes, platform: Platform = Platform.EMULATED) -> ImageStore:
    return ImageStore(folder, platform=platform, allowed=frozenset(names))


def code_of(images: ImageStore, name: bytes) -> str:
    with pytest.raises(MachineRefusedError) as refused:
        images.open(name)
    return refused.value.code


def test_an_image_that_is_whole_is_opened_with_its_files_and_measured_shape(tmp_path: Path) -> None:
    name = make_image(tmp_path, platform=Platform.SNP)
    image = store(tmp_path, name, platform=Platform.SNP).open(name)
    assert image.kernel.read_bytes() == b"a kernel"
    assert image.firmware is not None
    assert image.firmware.read_bytes() == b"a firmware"
    assert image.root is None
    assert image.shape(2).measurement == MEASUREMENT


def test_an_image_that_the_host_did_not_name_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path)
    assert code_of(store(tmp_path), name) == "unknown-image"


def test_an_image_that_is_absent_is_refused(tmp_path: Path) -> None:
    assert code_of(store(tmp_path, bytes(32)), bytes(32)) == "no-image"


@pytest.mark.parametrize("file", ["kernel", "initrd", "firmware"])
def test_one_changed_byte_of_any_file_is_refused(tmp_path: Path, file: str) -> None:
    name = make_image(tmp_path, platform=Platform.SNP)
    path = tmp_path / name.hex() / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert code_of(store(tmp_path, name, platform=Platform.SNP), name) == "wrong-image"


def test_another_manifest_under_an_allowed_name_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path)
    other = make_image(tmp_path, command_line="panic=-1 init=/bin/sh")
    manifest = (tmp_path / other.hex() / "manifest").read_bytes()
    (tmp_path / name.hex() / "manifest").write_bytes(manifest)
    assert code_of(store(tmp_path, name), name) == "wrong-image"


def test_an_image_of_another_platform_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path, platform=Platform.EMULATED)
    assert code_of(store(tmp_path, name, platform=Platform.SNP), name) == "wrong-image"


@pytest.mark.parametrize("what", ["", "manifest", "kernel"])
def test_an_image_that_others_can_write_is_refused(tmp_path: Path, what: str) -> None:
    name = make_image(tmp_path)
    path = tmp_path / name.hex() / what if what != "manifest" else tmp_path / name.hex()
    path.chmod(path.stat().st_mode | 0o020)
    assert code_of(store(tmp_path, name), name) == "open-image"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_image_of_another_user_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path)
    os.chown(tmp_path / name.hex() / "initrd", 65534, -1)
    assert code_of(store(tmp_path, name), name) == "open-image"


def test_a_symbolic_link_in_an_image_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path)
    path = tmp_path / name.hex() / "kernel"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert code_of(store(tmp_path, name), name) == "open-image"


def test_a_shape_that_nobody_measured_is_refused(tmp_path: Path) -> None:
    name = make_image(tmp_path, vcpus=(1, 8))
    image = store(tmp_path, name).open(name)
    with pytest.raises(MachineRefusedError, match="unmeasured-shape"):
        image.shape(2)
