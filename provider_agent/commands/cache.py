"""``blindhost-agent cache``: what lies there, what stays, what goes. Ciphertext, all of it.

``drop`` obeys at once, whoever uses the object: an enclave that asks for it is answered from the
market, or not at all once the market has taken it down too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any, Final

from provider_agent.cache import BlobCache, quota
from provider_agent.commands.connect import add_home, add_market, home_of, market_of, say
from provider_agent.earnings.host_market import HostMarket
from provider_agent.errors import AgentError
from provider_agent.frames import OBJECT_BYTES_MAX
from trust.artifacts import Manifest
from trust.encoding import DIGEST_BYTES, digest, parse_hex
from trust.identity import verify_signed

NAME: Final = "cache"
CACHE_FOLDER: Final = "cache"
INCOMPLETE: Final = 1


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="ciphertext kept on this host's disk")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listed = verbs.add_parser("list", help="what is there, what was used last first")
    _add_place(listed)
    listed.add_argument("--json", action="store_true")
    for name, text in (
        ("pin", "keep objects, here already or not"),
        ("unpin", "let them go in their turn"),
        ("drop", "remove objects and their pins now"),
    ):
        verb = verbs.add_parser(name, help=text)
        _add_place(verb)
        verb.add_argument("digests", nargs="+", metavar="DIGEST", help="of a segment, hex")
    fetch = verbs.add_parser("prefetch", help="fetch an artifact's segments before a lease does")
    _add_place(fetch)
    add_market(fetch)
    fetch.add_argument("artifact", metavar="ARTIFACT", help="digest of its manifest, hex")
    fetch.add_argument("--pin", action="store_true", help="and keep them")


def _add_place(parser: argparse.ArgumentParser) -> None:
    add_home(parser)
    parser.add_argument("--cache-mib", type=int, help="as serve has it; else 60 %% of free space")


def run(options: argparse.Namespace) -> int:
    """Do what the verb says."""
    folder = home_of(options) / CACHE_FOLDER
    if not folder.is_dir():
        raise AgentError("this home has no cache yet: start its agent once")
    bytes_max = quota(folder, options.cache_mib)
    cache = BlobCache(folder, bytes_max=bytes_max, agent=False)
    try:
        return _do(options, cache)
    finally:
        cache.close()


def _do(options: argparse.Namespace, cache: BlobCache) -> int:
    match options.verb:
        case "list":
            say(_listed(cache, as_json=options.json))
        case "pin":
            cache.pin(_digests(options.digests))
        case "unpin":
            cache.unpin(_digests(options.digests))
        case "drop":
            gone = [cache.drop(each) for each in _digests(options.digests)]
            say(f"dropped {sum(gone)} of {len(gone)} objects")
        case _:
            return asyncio.run(_prefetch(options, cache))
    return os.EX_OK


def _listed(cache: BlobCache, *, as_json: bool) -> str:
    view, objects = cache.view, cache.listed()
    if as_json:
        rows = [
            {
                "digest": each.digest.hex(),
                "bytes": each.bytes,
                "lease": each.lease,
                "pinned": each.pinned,
            }
            for each in objects
        ]
        return json.dumps({"bytes": view.bytes, "bytes_max": view.bytes_max, "objects": rows})
    rows_text = [
        f"{each.digest.hex()}  {each.bytes:>8}  {'stays' if each.pinned else 'may go'}"
        f"  {each.lease or '-'}"
        for each in objects
    ]
    total = f"{view.bytes} of {view.bytes_max} bytes, {view.objects} objects"
    return "\n".join((*rows_text, total))


def _digests(texts: list[str]) -> list[bytes]:
    found = [parse_hex(each) for each in texts]
    for each in found:
        if len(each) != DIGEST_BYTES:
            raise AgentError(f"{each.hex()[:16]}…: a digest has {DIGEST_BYTES} bytes")
    return found


async def _prefetch(options: argparse.Namespace, cache: BlobCache) -> int:
    (artifact,) = _digests([options.artifact])
    async with market_of(options) as market:
        names = await _segments(market, artifact)
        if options.pin:
            cache.pin(names)
        kept = 0
        for name in names:
            kept += await _fetch(market, cache, name)
    say(f"{kept} of {len(names)} objects are here")
    return os.EX_OK if kept == len(names) else INCOMPLETE


async def _segments(market: HostMarket, artifact: bytes) -> list[bytes]:
    """Objects of an artifact, verified from its id down: segment list, segments, public files.

    Raises AgentError.
    """
    manifest = verify_signed(Manifest, await market.document(artifact), signer=None)
    if manifest.digest != artifact:
        raise AgentError("the market's answer is another document than was asked for")
    listed = await market.get_blob(manifest.document.segment_list)
    if listed is None or digest(listed) != manifest.document.segment_list:
        raise AgentError("the market has not the segment list that the manifest names")
    size = DIGEST_BYTES
    parts = [listed[at : at + size] for at in range(0, len(listed), size)]
    if len(parts) != manifest.document.segments:
        raise AgentError(f"{len(parts)} segments are listed, the manifest says otherwise")
    public = [each.sha256 for each in manifest.document.public_files]
    return [manifest.document.segment_list, *parts, *public]


async def _fetch(market: HostMarket, cache: BlobCache, name: bytes) -> bool:
    if cache.get(name) is not None:
        return True
    content = await market.get_blob(name)
    if content is None or len(content) > OBJECT_BYTES_MAX:
        return False
    return cache.put(name, content)
