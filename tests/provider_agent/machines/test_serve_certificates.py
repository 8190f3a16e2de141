"""What vendors certify of a host is found, fetched and carried; and refused where it won't do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from provider_agent.endorsements.subjects import Wanted
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.serve_options import (
    first_certificates,
    keep_certificates,
    read_certificates,
)
from provider_agent.machines.spec import Platform
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements.rig import running, says
from tests.provider_agent.machines.test_machine_life import until
from tests.provider_agent.machines.test_service import options

NOW = minted.NOW


@pytest.fixture
def endorsed(tmp_path: Path) -> Path:
    """A folder with a chip's certificates, as whoever fetches them leaves it."""
    folder = tmp_path / "snp"
    folder.mkdir()
    for kind, content in minted.amd().items():
        (folder / kind).write_bytes(content)
    return folder


def certificates(folder: Path, platform: str = "snp") -> Certificates:
    arguments = ("--machine-platform", platform, "--machine-endorsements", str(folder.parent))
    return read_certificates(options(*arguments), NOW)


def test_a_chips_certificates_are_carried_as_they_are_found(endorsed: Path) -> None:
    found = certificates(endorsed)
    assert [each.kind for each in found.endorsements] == ["vcek", "ask", "ark", "crl"]
    for each in found.endorsements:
        assert (endorsed / each.kind).read_bytes() == each.content
    assert len(found.root) == 32
    assert found.root != bytes(32)


def test_an_emulated_machine_has_no_certificates(endorsed: Path) -> None:
    assert certificates(endorsed, "emulated") == Certificates(root=bytes(32), endorsements=())


@pytest.mark.parametrize("kind", ["vcek", "ask", "ark", "crl"])
def test_a_missing_or_broken_certificate_is_refused(endorsed: Path, kind: str) -> None:
    (endorsed / kind).write_bytes(b"\x30\x03\x02\x01\x01")
    with pytest.raises(MachineRefusedError, match="no-endorsements"):
        certificates(endorsed)
    (endorsed / kind).unlink()
    with pytest.raises(MachineRefusedError, match=kind):
        certificates(endorsed)


def test_certificates_of_no_platform_are_refused(endorsed: Path) -> None:
    with pytest.raises(MachineRefusedError, match="no-machine"):
        read_certificates(options("--machine-endorsements", str(endorsed.parent)), NOW)
    with pytest.raises(MachineRefusedError, match="no-endorsements"):
        certificates(endorsed, "tdx")


def tdx_folder(folder: Path) -> Path:
    (folder / "tdx").mkdir(parents=True)
    for kind, content in minted.intel().items():
        (folder / "tdx" / kind).write_bytes(content)
    return folder / "tdx"


def test_intels_seven_objects_are_carried_under_the_root_that_they_name(tmp_path: Path) -> None:
    found = certificates(tdx_folder(tmp_path), "tdx")
    assert {each.kind: each.content for each in found.endorsements} == minted.intel()
    root = minted.certificate(minted.ROOT, minted.ROOT, days=5000)
    assert found.root == root.fingerprint(hashes.SHA256())


def test_a_machine_with_gpus_carries_theirs_too_and_is_refused_without(tmp_path: Path) -> None:
    tdx_folder(tmp_path)
    asked = options(
        *("--machine-platform", "tdx", "--machine-endorsements", str(tmp_path)),
        *("--machine-gpu", "0000:41:00.0"),
    )
    with pytest.raises(MachineRefusedError, match="gpu: nothing is here"):
        read_certificates(asked, NOW)
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "gpu-rim.NV_GPU_DRIVER_GH100_550.144.03").write_bytes(minted.rim())
    assert read_certificates(asked, NOW).endorsements[-1].kind == "gpu-rim"


def test_a_list_that_has_run_out_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tdx_folder(tmp_path)
    ended = minted.revocation_list(minted.ROOT, NOW - 60 * minted.DAY)
    (folder / "tdx-root-crl").write_bytes(ended)
    with pytest.raises(MachineRefusedError, match=r"tdx-root-crl: ended 2026-10-.*endorsements f"):
        certificates(folder, "tdx")


async def test_what_is_missing_at_the_start_is_fetched_then(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.store.want(Wanted(tdx=minted.tdx_subject()))
        base = rig.services.pcs.base
        asked = options(
            *("--machine-platform", "tdx", "--machine-endorsements", str(tmp_path)),
            *("--pcs-url", base, "--root-list-url", base),
        )
        found = await first_certificates(asked, lambda: NOW)
        assert {each.kind: each.content for each in found.endorsements} == minted.intel()
        requests = len(rig.asked)
        assert await first_certificates(asked, lambda: NOW) == found
        assert len(rig.asked) == requests


async def test_newer_lists_are_carried_by_the_next_lease(tmp_path: Path) -> None:
    """The hourly task: what the vendor serves meanwhile replaces what the launcher's client has."""
    async with running(tmp_path) as rig:
        rig.store.want(Wanted(tdx=minted.tdx_subject()))
        base = rig.services.pcs.base
        asked = options(
            *("--machine-platform", "tdx", "--machine-endorsements", str(tmp_path)),
            *("--pcs-url", base, "--root-list-url", base),
        )
        first = await first_certificates(asked, lambda: NOW)
        shape = MachineShape(
            platform=Platform.TDX, image=bytes(32), memory_mib=1024, vcpus=1, gpus=()
        )
        client = MachineLauncher(shape, certificates=first, path=tmp_path / "none", uid=1000)
        newer = minted.revocation_list(minted.ROOT, NOW)
        rig.replies["/IntelSGXRootCA.der"] = says(newer)
        task = asyncio.create_task(keep_certificates(asked, client, lambda: NOW + minted.DAY))
        try:
            await until(
                lambda: newer in {each.content for each in client.certificates.endorsements}
            )
        finally:
            task.cancel()
