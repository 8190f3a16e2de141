"""Reference manifests: signed as lxml canonicalises them, complete, in the vendor's form."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from lxml import etree

from tests.trust.simulated.makers import NONCE, SWID, check_xml, gpu, nvidia
from trust.encoding import digest
from trust.evidence.nvidia import parse_gpu_report
from trust.simulated import GpuArchitecture
from trust.simulated.nvidia_models import MODELS
from trust.simulated.rim import driver_manifest, sign_manifest, vbios_manifest
from trust.verifier.rims import parse_rim

SHARED = Path(__file__).parents[4] / "shared" / "vectors" / "nvidia"
BOTH = pytest.mark.parametrize("architecture", list(GpuArchitecture))


@pytest.mark.parametrize("number", range(4))
def test_a_manifest_is_signed_under_the_root_of_manifests(number: int) -> None:
    kind, data = nvidia().rims()[number]
    chain = check_xml(data)
    assert kind == "gpu-rim"
    assert len(data) < 12 * 1024
    for one, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        one.verify_directly_issued_by(issuer)
    assert digest(nvidia().rim_root.certificate) == nvidia().rim_fingerprint
    assert parse_rim(data).chain[-1].fingerprint == nvidia().rim_fingerprint


@BOTH
def test_every_value_that_a_good_gpu_measures_is_in_one_manifest(
    architecture: GpuArchitecture,
) -> None:
    report = parse_gpu_report(gpu(architecture).device(NONCE).report)
    driver, vbios = (parse_rim(each) for each in gpu(architecture).rims)
    assert (driver.product, driver.version) == (gpu(architecture).model.chip, report.driver_version)
    assert vbios.version == report.vbios_version
    assert not set(driver.golden) & set(vbios.golden)
    wanted = {**driver.golden, **vbios.golden}
    assert all(report.measurements[index + 1] in values for index, values in wanted.items())
    others = [v for block, v in report.measurements.items() if block - 1 not in wanted]
    assert set(others) == {bytes(48)}


@pytest.mark.vectors
@pytest.mark.parametrize(("number", "real"), [(0, "rim_driver.xml"), (1, "rim_vbios.xml")])
def test_a_manifest_has_the_form_of_a_real_one(number: int, real: str) -> None:
    path = SHARED / "h100_driver545_full_rim_match" / real
    if not path.exists():
        pytest.skip("no ../shared/vectors here")

    def shape(data: bytes) -> object:
        root = etree.fromstring(data)
        heads = [
            (each.tag, each.prefix, sorted(each.attrib))
            for each in root.iter()
            if each.tag != SWID + "Resource" and "X509Certificate" not in str(each.tag)
        ]
        algorithms = [each.get("Algorithm") for each in root.iter() if each.get("Algorithm")]
        resources = list(root.iter(SWID + "Resource"))
        indices = [int(e.get("index")) for e in resources if e.get("active") == "True"]
        return heads, algorithms, indices, root.nsmap

    theirs = path.read_bytes()
    check_xml(theirs)  # what we take for the vendor's form of signing is that
    assert shape(gpu().rims[number]) == shape(theirs)


def test_a_changed_manifest_no_longer_has_its_digest() -> None:
    data = gpu().rims[0]
    with pytest.raises(AssertionError):
        check_xml(data.replace(b'active="False"', b'active="True"', 1))
    with pytest.raises(InvalidSignature):
        check_xml(data.replace(b"ecdsa-sha384", b"ecdsa-sha256", 1))


def test_a_lie_is_signed_as_it_is_told() -> None:
    line, model = nvidia().line("hopper"), MODELS[GpuArchitecture.HOPPER]
    chain = (line.rim_signer, line.rim_issuer, line.rim_authority, nvidia().rim_root)
    lie = dataclasses.replace(vbios_manifest(model), version='9"6<.00')
    data = sign_manifest(lie, chain)
    check_xml(data)
    assert etree.fromstring(data).find(SWID + "Meta").get("colloquialVersion") == '9"6<.00'
    other = dataclasses.replace(driver_manifest(model), chip="GB100")
    check_xml(sign_manifest(other, chain))
