"""The receiver's side of a hand-over: ask every custodian, open the adapter, write its folder.

- The key that shares are sealed to is drawn for one fetch and kept in memory alone; so is the
  identity that asks, whose box gets the answers: the home's own box is its broker's to read.
- Own shares come from the own keystore, by the same decision as anybody's (trust/hand_over.py).
- An answer counts if its custodian signed it, for exactly this request. Whatever else comes to the
  box is passed over: anybody may post there.
- The folder is what PEFT and vLLM load. It takes its name once all of it is on the disk.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from client.files import FOLDER_MODE, HomeError, sync_folder, write_durably
from client.market_api import MarketUnreachableError, UnauthenticatedAnswerError
from client.sealed import Step
from marketplace.wire import StoredMessage
from trust.artifacts import ArtifactOpener, Custodian, Manifest, SegmentList
from trust.custody import artifact_key
from trust.errors import BlindhostError, DocumentError, RefusedError
from trust.hand_over import accept_hand_over
from trust.identity import PartyKey, Signed, verify_signed
from trust.json_rules import parse_strict_json
from trust.messages import (
    HandOver,
    HandOverInfo,
    HandOverRefused,
    HandOverRequest,
    HandOverSecret,
    Receiver,
    Scope,
    ScopeKind,
    SignedMessage,
    parse_message,
    signed_label,
)
from trust.release_checks import shown
from trust.release_state import Holdings, Memory
from trust.safetensors_header import parse_safetensors_header
from trust.sealing import HpkePrivateKey

TENSORS_NAME: Final = "adapter_model.safetensors"
CONFIG_NAME: Final = "adapter_config.json"
BASE_FIELD: Final = "base_model_name_or_path"
WAIT_SECONDS: Final = 20  # of one long poll; below the market's own limit
RETRY_SECONDS: Final = 1.0  # after the market could not be reached

Waiting = Callable[[Sequence[bytes]], None]
"""Called with the custodians that have not answered, each time that they change."""


class HandOverError(BlindhostError):
    """An adapter that could not be fetched: who is silent, or what did not fit."""


class FetchPort(Protocol):
    """The market, in the name of an identity drawn for one fetch."""

    async def post_message(self, box: bytes, payload: bytes) -> None:
        """Put a message into a box of 32 bytes."""

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        """One's own box, beyond number `after`; waits so long for the first."""

    async def get_blob(self, digest: bytes) -> bytes:
        """A blob by its SHA-256, checked."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What one custodian was asked, and what its answer has to be."""

    request: Signed[HandOverRequest]
    info: bytes


async def collect_shares(
    holdings: Holdings,
    memory: Memory,
    manifest: Signed[Manifest],
    market: FetchPort,
    *,
    seconds: float,
    now: int,
    waiting: Waiting,
) -> tuple[bytes, ...]:
    """One share for each custodian entry of an adapter, in its core's order.

    Raises RefusedError with the refusing custodian's own code and text, HandOverError for a
    custodian that is silent for `seconds` or answers what does not fit.
    """
    entries = manifest.document.core.custodians
    found: dict[Custodian, bytes] = {}
    if any(each.identity == holdings.identity for each in entries):
        openings = accept_hand_over(holdings, memory, manifest, holdings.identity)
        own = _entries_of(manifest, holdings.identity)
        found |= zip(own, (each.share for each in openings), strict=True)
    key = HpkePrivateKey.generate()
    asked = {
        each: _ask(holdings.key, key, manifest, each, now)
        for each in sorted({e.identity for e in entries} - {holdings.identity})
    }
    try:
        async with asyncio.timeout(seconds):
            for custodian, each in asked.items():
                message = SignedMessage(signed=each.request.encode()).encode()
                await market.post_message(custodian, message)
            await _hear_all(market, manifest, key, asked, found, waiting)
    except TimeoutError as error:
        raise HandOverError(
            f"custodian {_names(_silent(asked, found))} did not answer within {seconds:g} s: its "
            "broker may be away; ask again later"
        ) from error
    return tuple(found[entry] for entry in entries)


def _names(custodians: Sequence[bytes]) -> str:
    return ", ".join(map(shown, custodians))


def _entries_of(manifest: Signed[Manifest], identity: bytes) -> tuple[Custodian, ...]:
    return tuple(e for e in manifest.document.core.custodians if e.identity == identity)


def _ask(
    receiver: PartyKey, key: HpkePrivateKey, manifest: Signed[Manifest], custodian: bytes, now: int
) -> _Asked:
    to = Receiver(identity=receiver.identity, hpke_key=key.public)
    request = receiver.sign(
        HandOverRequest(version=1, custodian=custodian, manifest=manifest.encode(), to=to, at=now)
    )
    core = manifest.document.core.digest
    scopes = tuple(
        Scope(scope=ScopeKind.DERIVED, lineage=each.lineage, epoch=each.epoch, core=core)
        for each in _entries_of(manifest, custodian)
    )
    info = HandOverInfo(custodian=custodian, request=request.digest, to=to, scopes=scopes)
    return _Asked(request=request, info=info.encode())


def _silent(asked: Mapping[bytes, _Asked], found: Mapping[Custodian, bytes]) -> list[bytes]:
    heard = {each.identity for each in found}
    return [each for each in asked if each not in heard]


async def _hear_all(
    market: FetchPort,
    manifest: Signed[Manifest],
    key: HpkePrivateKey,
    asked: Mapping[bytes, _Asked],
    found: dict[Custodian, bytes],
    waiting: Waiting,
) -> None:
    after = 0
    said: list[bytes] = []
    while silent := _silent(asked, found):
        if silent != said:
            waiting(silent)
            said = silent
        try:
            messages = await market.read_messages(after=after, wait_seconds=WAIT_SECONDS)
        except (MarketUnreachableError, UnauthenticatedAnswerError):
            await asyncio.sleep(RETRY_SECONDS)  # nothing was lost: it is asked again
            continue
        for message in messages:
            after = message.number
            for custodian in _silent(asked, found):
                shares = _hear(message.payload, custodian, asked[custodian], key)
                if shares is not None:
                    found |= zip(_entries_of(manifest, custodian), shares, strict=True)
                    break


def _hear(
    payload: bytes, custodian: bytes, asked: _Asked, key: HpkePrivateKey
) -> tuple[bytes, ...] | None:
    """A custodian's shares; None: this is not its answer to this request.

    (1) The custodian signed it. (2) A refusal of this request is raised, in its own words.
    (3) The public half is just what this request asks for, and (4) the sealed half opens under it,
    with one share for each scope.

    Raises RefusedError or HandOverError.
    """
    try:
        message = parse_message(payload)
        if not isinstance(message, SignedMessage):
            return None
        if signed_label(message.signed) == HandOverRefused.LABEL:
            no = verify_signed(HandOverRefused, message.signed, signer=custodian).document  # (1)
            if no.request != asked.request.digest:
                return None
            raise RefusedError(no.code, no.text)  # (2)
        answer = verify_signed(HandOver, message.signed, signer=custodian).document
    except RefusedError:
        raise
    except BlindhostError:
        return None
    if answer.info != asked.info:  # (3)
        return None
    try:
        secret = HandOverSecret.parse(key.open(answer.sealed, info=answer.info))  # (4)
    except BlindhostError as error:
        raise HandOverError(f"what custodian {shown(custodian)} sealed: {error}") from error
    wanted = len(HandOverInfo.parse(answer.info).scopes)
    if len(secret.shares) != wanted:
        text = f"{len(secret.shares)} shares for {wanted} scopes"
        raise HandOverError(f"custodian {shown(custodian)} answered with {text}")
    return secret.shares


# --- opening -------------------------------------------------------------------------------------


async def open_adapter(
    manifest: Manifest, shares: Sequence[bytes], market: FetchPort, step: Step
) -> bytes:
    """Fetch an adapter's ciphertext and open it. Raises SealingError and its kin."""
    key = artifact_key(shares, manifest.core)
    listed = await market.get_blob(manifest.segment_list)
    segments = SegmentList(manifest, listed)
    first = await market.get_blob(segments[0])
    opener = ArtifactOpener(manifest=manifest, segment_list=listed, key=key, first_segment=first)
    parts = [opener.open(0, first)[1]]
    step(1, len(segments))
    for index in range(1, len(segments)):
        parts.append(opener.open(index, await market.get_blob(segments[index]))[1])
        step(index + 1, len(segments))
    return b"".join(parts)


# --- the folder ----------------------------------------------------------------------------------


def write_adapter_folder(folder: Path, content: bytes, *, base_name: str | None) -> None:
    """Write an adapter as a folder that PEFT and vLLM load, 0700; it is there whole or not at all.

    `base_name` is the name or path of the base for whoever loads the folder; None leaves the base's
    artifact id. Raises HomeError if something has that name already, EncodingError for content that
    is no adapter.
    """
    check_free(folder)
    config = _config(content)
    if base_name is not None:
        config[BASE_FIELD] = base_name
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    beside.mkdir(mode=FOLDER_MODE)
    try:
        write_durably(beside / TENSORS_NAME, content)
        text = json.dumps(config, indent=2, sort_keys=True)
        write_durably(beside / CONFIG_NAME, text.encode() + b"\n")
        check_free(folder)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def check_free(folder: Path) -> None:
    """Raise HomeError if anything is there, or if there is nothing to put it into."""
    if folder.exists() or folder.is_symlink():
        raise HomeError(f"{folder.name} is there already; it is never overwritten")
    if not folder.parent.is_dir():
        raise HomeError(f"{folder.parent.name} is no folder")


def _config(content: bytes) -> dict[str, object]:
    """The ``adapter_config.json`` that the enclave wrote beside the tensors."""
    metadata = parse_safetensors_header(content, len(content)).metadata
    if CONFIG_NAME not in metadata:
        raise DocumentError(f"adapter: no {CONFIG_NAME} in its metadata")
    config = parse_strict_json(CONFIG_NAME, metadata[CONFIG_NAME].encode())
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise DocumentError(f"{CONFIG_NAME}: no LoRA adapter's")
    if not isinstance(config.get(BASE_FIELD), str):
        raise DocumentError(f"{CONFIG_NAME}: {BASE_FIELD} is no text")
    return config
