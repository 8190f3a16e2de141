"""`verify.*`: milliseconds for a verification, and its ratio to the bare signature operations.

Inputs are the golden vectors' good bases (tests/vectors/evidence/bases): throwaway roots and real
formats, with the vendors' algorithms and lengths of chains. A verification starts at bytes and ends
at a verdict: parse, verify, appraise. The bare arm repeats the public-key operations that one
verification makes, of the same algorithms and key sizes, and nothing else. Which those are is
observed: a profiler's hook counts each call of a key's ``verify`` by our own code. What dcap-qvl
repeats inside of its wheel is not counted, so that its second opinion is overhead, as it should be.

Both arms run in turn, `runs` times, each for `REPEATS` verifications; the median is given.
"""

from __future__ import annotations

import collections
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from client.evidence_verify import Exit, parse_request, verify_json
from trust.verifier.nvidia import check_gpu
from trust.verifier.rims import parse_rim

BASES: Final = Path(__file__).parents[1] / "tests" / "vectors" / "evidence" / "bases"
CASES: Final = {
    "snp": "snp-genoa",
    "tdx": "tdx-v5",
    "gpu": "gpu-hopper",
    "composite": "composite-genoa",
}
REPEATS: Final = 40
MESSAGE: Final = bytes(1024)

Operation = tuple[str, int]
"""Algorithm and key size: ``("rsa", 4096)``, ``("ec", 384)``, ``("ed25519", 256)``."""


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """Milliseconds and ratio of each kind of evidence."""
    for name, base in CASES.items():
        data = (BASES / f"{base}.json").read_bytes()
        if verify_json(data).exit is not Exit.ACCEPTED:
            raise AssertionError(f"{base} is not accepted: the figure would be of a refusal")
        verification = _verification(data)
        operations = count_operations(verification)
        bare = _bare(operations)
        ours, theirs = _in_turn(verification, bare, runs)
        shown = ", ".join(f"{count} × {each[0]}-{each[1]}" for each, count in operations.items())
        print(f"{name}: {shown}", file=sys.stderr)
        yield _figure(f"verify.{name}_ms", ours * 1e3, "ms", runs)
        yield _figure(f"verify.{name}_vs_bare", ours / theirs, "ratio", runs)
    rim = _rim()
    ours, _ = _in_turn(lambda: parse_rim(rim), lambda: None, runs)
    yield _figure("verify.rim_parse_ms", ours * 1e3, "ms", runs)


def _figure(name: str, value: float, unit: str, runs: int) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 3),
        "unit": unit,
        "better": "lower",
        "runs": runs,
    }


def _verification(data: bytes) -> Callable[[], object]:
    """The verification alone: reading the input's JSON is the command's, and no broker does it."""
    from client import evidence_verify
    from trust.messages import GpuEvidence
    from trust.verifier.appraisal import verify_evidence

    request = parse_request(data)
    evidence, policy, now = request.evidence, request.policy, request.now
    if evidence.platform == evidence_verify.GPU_ALONE:
        gpu, nonce = evidence.gpu, request.gpu_nonce
        assert gpu is not None
        assert nonce is not None
        return lambda: check_gpu(
            GpuEvidence.parse(gpu), evidence.endorsements, policy.roots, nonce, now
        )
    expected, _ = evidence_verify._expected(request)  # noqa: SLF001 - the command's own way
    return lambda: verify_evidence(evidence, policy, expected, now=now)


def count_operations(verification: Callable[[], object]) -> collections.Counter[Operation]:
    """The public-key verifications that a call makes, by algorithm and key size."""
    found: collections.Counter[Operation] = collections.Counter()

    def hook(_frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and getattr(argument, "__name__", "") == "verify":
            operation = _operation_of(getattr(argument, "__self__", None))
            if operation is not None:
                found[operation] += 1

    sys.setprofile(hook)
    try:
        verification()
    finally:
        sys.setprofile(None)
    if not found:
        raise AssertionError("no signature was verified: the figure would have no other arm")
    return found


def _operation_of(key: object) -> Operation | None:
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa", key.key_size
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ec", key.curve.key_size
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519", 256
    return None


def _bare(operations: collections.Counter[Operation]) -> Callable[[], object]:
    """The same operations, over a message of a certificate's length."""
    calls = [_call(operation) for operation, count in operations.items() for _ in range(count)]

    def run() -> None:
        for call in calls:
            call()

    return run


def _call(operation: Operation) -> Callable[[], object]:
    kind, bits = operation
    if kind == "rsa":
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
        signature = rsa_key.sign(MESSAGE, pss, hashes.SHA384())
        public = rsa_key.public_key()
        return lambda: public.verify(signature, MESSAGE, pss, hashes.SHA384())
    if kind == "ec":
        curve = {256: ec.SECP256R1(), 384: ec.SECP384R1()}[bits]
        algorithm = ec.ECDSA(hashes.SHA256() if bits == 256 else hashes.SHA384())
        ec_key = ec.generate_private_key(curve)
        signed = ec_key.sign(MESSAGE, algorithm)
        ec_public = ec_key.public_key()
        return lambda: ec_public.verify(signed, MESSAGE, algorithm)
    own = ed25519.Ed25519PrivateKey.generate()
    mark = own.sign(MESSAGE)
    own_public = own.public_key()
    return lambda: own_public.verify(mark, MESSAGE)


def _in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int
) -> tuple[float, float]:
    """Median seconds of one call of each arm, over `runs` blocks of each in turn."""
    blocks: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for block, call in zip(blocks, (ours, theirs), strict=True):
            started = time.perf_counter()
            for _ in range(REPEATS):
                call()
            block.append((time.perf_counter() - started) / REPEATS)
    return statistics.median(blocks[0]), statistics.median(blocks[1])


def _rim() -> bytes:
    request = parse_request((BASES / "gpu-hopper.json").read_bytes())
    return next(content for kind, content in request.evidence.endorsements if kind == "gpu-rim")
