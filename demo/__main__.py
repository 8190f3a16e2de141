"""``make demo``: the demo model and data through every piece that exists.

Today: seal both, search the ciphertext for what is secret, open both in another process. Each step
says what it did; what the finished demo will do besides is printed as missing, not pretended.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from demo.blindness import Searcher
from trust.artifacts import ArtifactKind, ArtifactSealer, Core, Custodian, Manifest
from trust.custody import LineageKind, artifact_key, input_share, lineage_id
from trust.encoding import digest
from trust.identity import PartyKey

ASSETS: Final = Path(__file__).parent / "assets"
CANARY: Final = b"order FB62518"  # stands in the first row of the training data
MISSING: Final = ("release by evidence", "training in the enclave", "market and money", "resume")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealedFile:
    """A file of the demo, sealed into a store."""

    name: str
    key: bytes
    manifest: Manifest
    sha256: str


def seal(path: Path, kind: ArtifactKind, store: Path) -> SealedFile:
    """Seal a file under a fresh lineage of a fresh party."""
    party, lineage_key = PartyKey.generate(), secrets.token_bytes(32)
    lineage = lineage_id(LineageKind.SIMULATED, party.identity, secrets.token_bytes(32))
    core = Core(
        kind=kind,
        seal_id=secrets.token_bytes(32),
        custodians=(Custodian(identity=party.identity, lineage=lineage, epoch=0),),
        origin=None,
    )
    content = path.read_bytes()
    key = artifact_key([input_share(lineage_key, core)], core)
    sealer = ArtifactSealer(
        core=core, key=key, content_bytes=len(content), entropy=secrets.token_bytes(39)
    )
    for segment in sealer.segments([content]):
        (store / digest(segment).hex()).write_bytes(segment)
    (store / digest(sealer.segment_list()).hex()).write_bytes(sealer.segment_list())
    return SealedFile(
        name=path.name,
        key=key,
        manifest=sealer.manifest(),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def opens_elsewhere(sealed: SealedFile, store: Path) -> bool:
    """Whether another process gets the same content from ciphertext and key."""
    done = subprocess.run(
        [sys.executable, "-m", "demo.opener", str(store), sealed.manifest.encode().hex()],
        input=sealed.key,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip() == sealed.sha256


def main() -> None:
    """Entry point. Exit status 0 only if every step held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    as_json = parser.parse_args().json
    started = time.monotonic()
    model, rows = ASSETS / "model.safetensors", ASSETS / "train.jsonl"
    searcher = Searcher(canaries={"canary": CANARY}, weights={"weights": model.read_bytes()})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        files = [seal(model, ArtifactKind.WEIGHTS, store), seal(rows, ArtifactKind.DATASET, store)]
        for blob in sorted(store.iterdir()):
            searcher.search("store", blob.read_bytes())
        opened = {sealed.name: opens_elsewhere(sealed, store) for sealed in files}
    at_home = [hit.secret for hit in searcher.search("the buyer's own folder", rows.read_bytes())]
    hits = [hit for hit in searcher.hits if hit.place == "store"]
    print(f"sealed and opened in another process: {opened}")
    print(f"blindness: {searcher.bytes_searched} bytes, hits {hits}, at the buyer {at_home}")
    print(f"missing: {', '.join(MISSING)}")
    if as_json:
        report = {
            "seconds": round(time.monotonic() - started, 1),
            "opened": opened,
            "blindness": {
                "bytes_searched": searcher.bytes_searched,
                "hits": len(hits),
                "canary_found_at_buyer": "canary" in at_home,
            },
            "missing": list(MISSING),
        }
        print(json.dumps(report))
    sys.exit(0 if all(opened.values()) and not hits and "canary" in at_home else 1)


if __name__ == "__main__":
    main()
