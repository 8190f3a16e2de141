"""GPU reports: the parser, and everything that is asked of one."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.evidence.nvidia import driver_rim_id, parse_gpu_report, vbios_rim_id
from trust.messages import GpuEvidence


def seeds() -> list[bytes]:
    made = []
    for evidence in material.gpus():
        try:
            made += [device.report for device in GpuEvidence.parse(evidence).devices]
        except BlindhostError:
            continue
    return made


def one(data: bytes) -> None:
    try:
        report = parse_gpu_report(data)
    except BlindhostError:
        return
    assert data.startswith(report.raw)
    assert len(report.fwid or b"") in {0, 48}
    _ = report.feature_flag, report.protected_pcie, report.video_decoder_on
    _ = report.switch_pdis, report.gpu_pdis
    driver_rim_id(report, "GH100")
    try:
        vbios_rim_id(report)
    except BlindhostError:
        return
