"""``blindhost-agent endorsements``: fetch what vendors certify of this host, show it, bring it.

``fetch`` asks for what is due, and for nothing else: it may run every hour. Its status is 0 if all
that is wanted can be carried, else 1, and then it says what is missing and what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from provider_agent.commands.connect import say, wall_clock
from provider_agent.endorsements import shapes
from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.options import (
    FOLDER,
    add_hardware,
    add_services,
    services_of,
    wanted_of,
)
from provider_agent.endorsements.refresh import locked, refresh
from provider_agent.endorsements.rounds import Round, import_file, objects_of, refusal
from provider_agent.endorsements.store import Kept, Store
from provider_agent.endorsements.subjects import Wanted
from trust.encoding import digest

NAME: Final = "endorsements"
SCHEMA: Final = "blindhost/v1/host/endorsements"
MISSING: Final = 1


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="vendors' certificates, lists and reference values")
    verbs = parser.add_subparsers(dest="verb", required=True)
    fetch = verbs.add_parser("fetch", help="ask for what is not here, or ends soon")
    _add_place(fetch)
    fetch.add_argument("--json", action="store_true")
    add_hardware(fetch)
    add_services(fetch)
    show = verbs.add_parser("show", help="what is here, until when, and what is missing")
    _add_place(show)
    show.add_argument("--json", action="store_true")
    brought = verbs.add_parser("import", help="keep a file that was fetched elsewhere")
    _add_place(brought)
    brought.add_argument("name", metavar="NAME", help="vcek, crl, tdx-tcb-info, gpu-rim.ID, …")
    brought.add_argument("file", type=Path, metavar="FILE")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")


def run(options: argparse.Namespace) -> int:
    """Do what the verb says."""
    store, now = Store(options.folder), _now()
    if options.verb == "import":
        with options.file.open("rb") as file:
            content = file.read(shapes.RIM_BYTES_MAX + 1)
        with locked(store.folder):
            import_file(store, options.name, content, now)
        say(f"kept {options.name}: {len(content)} bytes, {digest(content).hex()}")
        return os.EX_OK
    done: Round | None = None
    if options.verb == "fetch":
        wanted = wanted_of(options, store.wanted() or Wanted())
        if wanted == Wanted():
            raise EndorsementError("bad-subject", "of what hardware? --snp-report, --tdx-quote, …")
        services = services_of(options)
        store.want(wanted)
        done = asyncio.run(refresh(store, wanted, services, _now))
        objects = done.objects
    else:
        objects = _here(store, now)
    say(as_json(objects, done) if options.json else as_text(objects, done))
    missing = [each for each in objects if not each.state.carried]
    return os.EX_OK if objects and not missing else MISSING


def _now() -> dt.datetime:
    return dt.datetime.fromtimestamp(wall_clock() / 1000, dt.UTC)


def _here(store: Store, now: dt.datetime) -> tuple[Kept, ...]:
    """What is wanted; and what is here besides, as where nobody said yet what is wanted."""
    objects = objects_of(store, store.wanted() or Wanted(), now)
    known = {(each.platform, each.name) for each in objects}
    others = [
        store.get(platform, name, now)
        for platform in shapes.PLATFORMS
        for name in store.names(platform)
        if (platform, name) not in known
    ]
    return (*objects, *others)


# --- printing ------------------------------------------------------------------------------------


def as_json(objects: Iterable[Kept], done: Round | None) -> str:
    """One object; times in ISO 8601, of UTC."""
    rows = [
        {
            "platform": each.platform,
            "name": each.name,
            "kind": shapes.kind_of(each.name),
            "state": each.state.value,
            "bytes": len(each.content),
            "sha256": digest(each.content).hex() if each.content else None,
            "begins": _iso(each.life.begins if each.life else None),
            "ends": _iso(each.life.ends if each.life else None),
            "fetched_at": _iso(each.fetched_at),
            "source": each.source,
            "problem": each.problem,
            "problem_since": _iso(each.problem_since),
        }
        for each in objects
    ]
    missing = [each for each in objects if not each.state.carried]
    value: dict[str, object] = {
        "schema": SCHEMA,
        "complete": bool(rows) and not missing,
        "asked": None if done is None else done.asked,
        "kept": None if done is None else done.kept,
        "objects": rows,
        "remedy": refusal(missing).text if missing else None,
    }
    return json.dumps(value, indent=1, ensure_ascii=True)


def as_text(objects: Iterable[Kept], done: Round | None) -> str:
    """A line for each, and what to do."""
    rows = tuple(objects)
    lines = [
        f"{each.platform:<4} {each.name:<44} {each.state.value:<10} "
        f"{_until(each):<20} {each.source or '-'}"
        for each in rows
    ]
    lines += [f"     {each.name}: {_clean(each.problem)}" for each in rows if each.problem]
    if done is not None:
        lines.append(f"asked {done.asked} times, wrote {done.kept} files")
    missing = [each for each in rows if not each.state.carried]
    if missing:
        lines.append(_clean(refusal(missing).text))
    return "\n".join(lines or ["nothing is here, and nothing is wanted yet"])


def _until(each: Kept) -> str:
    if each.life is None or each.life.ends is None:
        return "-"
    return each.life.ends.strftime("until %Y-%m-%d")


def _iso(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(dt.UTC).isoformat()


def _clean(text: str) -> str:
    return "".join(each if each.isprintable() else "�" for each in text)
