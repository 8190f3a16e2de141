"""Artifacts through the blob port: seal and store, fetch and open. Ciphertext alone leaves here.

- What this run makes gets a core of its own (fresh seal id, the job's custodians, this job and
  generation) and a key from the output shares; salt and prefix are fresh, so no seal repeats.
- Segments, the segment list and the manifest are stored, each under its SHA-256: the manifest's
  is the artifact's id, so whoever knows the id finds everything.
- What is fetched opens under a key that a manifest commits to, segment by segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from enclave_runtime.briefing import Brief
from enclave_runtime.transport import BLOB_BYTES_MAX, Door
from enclave_runtime.vault import Vault
from trust.artifacts import (
    ENTROPY_BYTES,
    ArtifactKind,
    ArtifactOpener,
    ArtifactSealer,
    Core,
    Manifest,
    Origin,
)
from trust.encoding import DIGEST_BYTES
from trust.errors import SealingError
from trust.identity import PartyKey, Signed
from trust.jobs import InputRole
from trust.messages import CheckpointAt
from trust.model_files import parse_safetensors_header
from trust.sealing import HEADER_BYTES, TAG_BYTES, plain_span

SEAL_ID_BYTES: Final = 32
CHUNK_BYTES: Final = 1 << 20


def segment_bytes(manifest: Manifest, index: int) -> int:
    """Length of ciphertext segment `index`."""
    start, end = plain_span(index, manifest.padded_bytes)
    return end - start + TAG_BYTES + (HEADER_BYTES if index == 0 else 0)


async def seal_and_store(
    door: Door,
    brief: Brief,
    vault: Vault,
    signing_key: PartyKey,
    *,
    kind: ArtifactKind,
    content: bytes,
) -> Signed[Manifest]:
    """Seal what this run made, store it whole, and sign its manifest. Raises BlobError."""
    origin = Origin(job=brief.launch.job, generation=brief.launch.generation)
    core = Core(
        kind=kind, seal_id=os.urandom(SEAL_ID_BYTES), custodians=brief.entries, origin=origin
    )
    sealer = ArtifactSealer(
        core=core,
        key=vault.output_key(core),
        content_bytes=len(content),
        entropy=os.urandom(ENTROPY_BYTES),
    )
    for segment in sealer.segments(_chunks(content)):
        await door.write_blob(segment)
    await door.write_blob(sealer.segment_list())
    manifest = sealer.manifest()
    await door.write_blob(manifest.encode())
    return signing_key.sign(manifest)


async def fetch_opener(door: Door, manifest: Manifest, key: bytes) -> ArtifactOpener:
    """Fetch an artifact's segment list and first segment, and open it under `key`.

    Raises BlobError, or what ArtifactOpener raises.
    """
    segment_list = await door.read_blob(manifest.segment_list, DIGEST_BYTES * manifest.segments)
    if len(segment_list) < DIGEST_BYTES:
        raise SealingError("a segment list without a segment")
    first = await door.read_blob(segment_list[:DIGEST_BYTES], segment_bytes(manifest, 0))
    return ArtifactOpener(
        manifest=manifest, segment_list=segment_list, key=key, first_segment=first
    )


async def fetch_content(door: Door, manifest: Manifest, key: bytes) -> bytes:
    """Fetch and open a whole artifact. Raises BlobError, or what ArtifactOpener raises."""
    opener = await fetch_opener(door, manifest, key)
    content = bytearray()
    for index in range(len(opener)):
        segment = await door.read_blob(opener.list[index], segment_bytes(manifest, index))
        content += opener.open(index, segment)[1]
    return bytes(content)


async def fetch_manifest(door: Door, artifact: bytes) -> Manifest:
    """Fetch a manifest by artifact id. Raises BlobError or EncodingError."""
    return Manifest.parse(await door.read_blob(artifact, BLOB_BYTES_MAX))


async def fetch_public_files(door: Door, brief: Brief) -> dict[str, bytes]:
    """Fetch the model's public files by digest. Raises BlobError, SealingError."""
    files = {}
    for file in brief.manifests[InputRole.MODEL].public_files:
        content = await door.read_blob(file.sha256, file.bytes) if file.bytes else b""
        if len(content) != file.bytes:
            raise SealingError(f"{file.name} has {len(content)} bytes, listed are {file.bytes}")
        files[file.name] = content
    return files


def checkpoint_class(content: bytes, *, job: bytes, at: CheckpointAt) -> str:
    """The compute class in a checkpoint's metadata, once job, generation and step are the stated.

    Raises SealingError, or EncodingError for what is no safetensors file.
    """
    metadata = parse_safetensors_header(content, len(content)).metadata
    wanted = {"job": job.hex(), "generation": str(at.generation), "step": str(at.step)}
    for name, value in wanted.items():
        if metadata.get(name) != value:
            found = str(metadata.get(name))[:64]
            raise SealingError(f"checkpoint of {name} {found!r}, the custodians state {value!r}")
    if "compute_class" not in metadata:
        raise SealingError("checkpoint without its compute class")
    return metadata["compute_class"]


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
