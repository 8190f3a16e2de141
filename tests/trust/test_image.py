"""The measurement names exactly the files that run: any change of any file changes it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust.errors import EvidenceFormatError
from trust.image import FILES_MAX, LAUNCH_PATH, MAIN_CONTENT, belongs, image_measurement

FILES = {
    "__main__.py": hashlib.sha256(MAIN_CONTENT).digest(),
    "constraints.txt": hashlib.sha256(b"lock").digest(),
    "enclave_runtime/__init__.py": hashlib.sha256(b"").digest(),
    "enclave_runtime/recipes/lora.py": hashlib.sha256(b"lora").digest(),
    "trust/__init__.py": hashlib.sha256(b"").digest(),
}


def test_measurement_is_the_one_that_the_rule_spells_out() -> None:
    text = b"blindhost/v1/image\x00"
    for path in sorted(FILES):
        text += len(path).to_bytes(4, "big") + path.encode() + FILES[path]
    assert image_measurement(FILES) == hashlib.sha384(text).digest()


def test_measurement_does_not_depend_on_the_order_of_the_files() -> None:
    assert image_measurement(dict(reversed(FILES.items()))) == image_measurement(FILES)


@given(st.sampled_from(sorted(FILES)), st.integers(0, 255))
def test_one_changed_bit_of_one_file_changes_the_measurement(path: str, bit: int) -> None:
    number = int.from_bytes(FILES[path], "big") ^ (1 << bit)
    changed = FILES | {path: number.to_bytes(32, "big")}
    assert image_measurement(changed) != image_measurement(FILES)


def test_a_file_under_another_name_or_a_file_more_changes_the_measurement() -> None:
    moved = dict(FILES)
    moved["enclave_runtime/recipes/lord.py"] = moved.pop("enclave_runtime/recipes/lora.py")
    more = FILES | {"trust/extra.py": bytes(32)}
    assert len({image_measurement(each) for each in (FILES, moved, more)}) == 3


@pytest.mark.parametrize(
    "path",
    [
        LAUNCH_PATH,
        "trust/__pycache__/identity.cpython-311.py",
        "trust/__pycache__/identity.py",
        "trust/identity.pyc",
        "trust/../enclave_runtime/run.py",
        "trust//identity.py",
        "/trust/identity.py",
        "trust/.hidden.py",
        "trust/a.so",
        "other/a.py",
        "trust.py",
        "sitecustomize.py",
        "trust/" + "a" * 300 + ".py",
        "trust/\udcff.py",
    ],
)
def test_what_does_not_belong_is_not_measured_in_silence(path: str) -> None:
    assert not belongs(path)
    with pytest.raises(EvidenceFormatError, match="does not belong"):
        image_measurement(FILES | {path: bytes(32)})


@pytest.mark.parametrize("path", ["trust/identity.py", "enclave_runtime/image/reference.py"])
def test_sources_of_both_packages_belong(path: str) -> None:
    assert belongs(path)


@pytest.mark.parametrize("path", sorted(set(FILES) - {"enclave_runtime/recipes/lora.py"}))
def test_an_image_without_a_part_that_it_needs_has_no_measurement(path: str) -> None:
    with pytest.raises(EvidenceFormatError, match="missing"):
        image_measurement({name: content for name, content in FILES.items() if name != path})


def test_a_short_digest_and_too_many_files_are_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="31 bytes"):
        image_measurement(FILES | {"trust/identity.py": bytes(31)})
    with pytest.raises(EvidenceFormatError, match="at most"):
        image_measurement({f"trust/a{n}.py": bytes(32) for n in range(FILES_MAX + 1)})
