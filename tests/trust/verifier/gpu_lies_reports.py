"""Lies in a report's shape and its nonce: check 27."""

from __future__ import annotations

from tests.trust.verifier.gpu_lie_edits import (
    BLOCK,
    OPAQUE,
    P384_ORDER,
    RECORD,
    Lies,
    at,
    body,
    gpu,
    lie,
    no_evidence,
    opaque_edit,
    with_block_again,
    without_block,
)
from tests.trust.verifier.gpu_vendor import (
    HOPPER,
    NONCE,
)
from trust.simulated.nvidia_gpu import REQUEST_HEAD
from trust.simulated.nvidia_models import fwid, measurement

LIES: Lies = []

# --- 27: the report's shape, and the nonce -------------------------------------------------------

no_evidence(
    LIES,
    "gpu-format",
    "report-cut-short",
    "The last byte of the signature is missing.",
    gpu(report_edit=lambda data: data[:-1]),
)
no_evidence(
    LIES,
    "gpu-format",
    "two-trailing-zeros",
    "Two zero bytes stand after the signature.",
    gpu(report_edit=lambda data: data + bytes(2)),
)
no_evidence(
    LIES,
    "gpu-format",
    "trailing-byte",
    "A byte that is not zero stands after the signature.",
    gpu(report_edit=lambda data: data + b"\x01"),
)
no_evidence(
    LIES,
    "gpu-format",
    "request-of-spdm-1-0",
    "The request is of SPDM 1.0, and signed.",
    gpu(request=b"\x10" + REQUEST_HEAD[1:] + NONCE + b"\x00"),
)
no_evidence(
    LIES,
    "gpu-format",
    "request-for-one-block",
    "The request asks for block 1 alone, and signed.",
    gpu(request=REQUEST_HEAD[:3] + b"\x01" + NONCE + b"\x00"),
)
no_evidence(
    LIES,
    "gpu-format",
    "request-without-signature",
    "The request asks for no signature.",
    gpu(request=REQUEST_HEAD[:2] + b"\x00\xff" + NONCE + b"\x00"),
)
no_evidence(
    LIES,
    "gpu-format",
    "request-of-slot-1",
    "The request is for the chain in slot 1.",
    gpu(request=REQUEST_HEAD + NONCE + b"\x01"),
)
no_evidence(
    LIES,
    "gpu-format",
    "response-of-other-kind",
    "The response is no MEASUREMENTS.",
    body(at(1, b"\x7f")),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-twice",
    "Block 2 stands where block 3 is, with other content.",
    body(at(RECORD + 2 * BLOCK, b"\x02")),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-again",
    "Block 8 stands a second time, after the others and uncounted, with a good value.",
    gpu(
        measurements={7: bytes(range(48))},
        body_edit=lambda data: with_block_again(data, number=8, value=measurement(HOPPER, 7)),
    ),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-missing",
    "Block 40 is missing, and the count says so.",
    body(lambda data: without_block(data, number=40, count=63)),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-count",
    "The response says that it has one block more.",
    body(at(4, b"\x41")),
)
no_evidence(
    LIES,
    "gpu-format",
    "record-too-long",
    "The record of blocks is said to be a byte longer.",
    body(at(5, (64 * BLOCK + 1).to_bytes(3, "little"))),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-of-other-specification",
    "A block is of specification 2.",
    body(at(RECORD + 1, b"\x02")),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-value-size",
    "A block's value is said to be 47 bytes long.",
    body(at(RECORD + 5, (47).to_bytes(2, "little"))),
)
no_evidence(
    LIES,
    "gpu-format",
    "block-of-raw-bits",
    "A block says that it holds no digest.",
    body(at(RECORD + 4, b"\x81")),
)
no_evidence(
    LIES,
    "gpu-format",
    "opaque-too-long",
    "The opaque fields are said to go on into the signature.",
    body(lambda d: at(OPAQUE, (len(d) - OPAQUE - 2 + 96).to_bytes(2, "little"))(d)),
)
no_evidence(
    LIES,
    "gpu-format",
    "opaque-twice",
    "A second driver version stands at the end.",
    body(opaque_edit(lambda f: f + b"\x03\x00\x07\x00" + b"999.00\x00")),
)
no_evidence(
    LIES,
    "gpu-format",
    "opaque-cut-off",
    "The last opaque field is longer than what is left.",
    body(opaque_edit(lambda f: f + b"\xc8\x00\x09\x00")),
)
no_evidence(
    LIES,
    "gpu-format",
    "fwid-of-47-bytes",
    "The FWID has 47 bytes.",
    gpu(opaque={20: fwid(HOPPER)[:47]}),
)
no_evidence(
    LIES, "gpu-format", "feature-flag-3", "FEATURE_FLAG is 3.", gpu(opaque={36: b"\x03\x00"})
)
no_evidence(
    LIES,
    "gpu-format",
    "protected-pcie-0",
    "PROTECTED_PCIE_STATUS is neither on nor off.",
    gpu(opaque={21: b"\x00"}),
)
no_evidence(
    LIES,
    "gpu-format",
    "driver-version-text",
    "The driver's version is a path.",
    gpu(opaque={3: b"580.95/../x\x00"}),
)
no_evidence(
    LIES,
    "gpu-format",
    "driver-version-after-zero",
    "The driver's version goes on after a zero.",
    gpu(opaque={3: b"580.95.05\x00.1"}),
)
no_evidence(
    LIES, "gpu-format", "no-vbios-version", "There is no VBIOS version.", gpu(opaque={6: None})
)
no_evidence(
    LIES,
    "gpu-format",
    "zero-r",
    "The signature's r is zero.",
    gpu(report_edit=lambda d: d[:-96] + bytes(48) + d[-48:]),
)
no_evidence(
    LIES,
    "gpu-format",
    "s-above-order",
    "The group's order is added to a small s.",
    gpu(report_edit=lambda d: d[:-48] + (P384_ORDER + 1).to_bytes(48, "big")),
)

lie(
    LIES,
    "gpu-nonce",
    "nonce-of-another",
    "The GPU answered somebody else's nonce.",
    gpu(request=REQUEST_HEAD + NONCE[::-1] + b"\x00"),
)
lie(
    LIES,
    "gpu-nonce",
    "nonce-in-the-response",
    "Our nonce stands where the device's own belongs, under another request.",
    gpu(request=REQUEST_HEAD + bytes(32) + b"\x00", body_edit=at(RECORD + 64 * BLOCK, NONCE)),
)
lie(
    LIES,
    "gpu-nonce",
    "nonce-of-zeros",
    "The nonce in the request is zeros.",
    gpu(request=REQUEST_HEAD + bytes(32) + b"\x00"),
)
