"""``blindhost-agent doctor`` and ``selftest``: what keeps this machine from being offered.

The wall clock, the machine's root and the terminal are met here; what is decided is decided below.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import os
import sys
from pathlib import Path
from typing import Final

from provider_agent.doctor.check import Check, exit_status, report_json
from provider_agent.doctor.context import Context, Wanted
from provider_agent.doctor.engine import find_row, make_checks
from provider_agent.doctor.fix import apply, plan, undo
from provider_agent.doctor.hardware import ADMIN_TOOL, QEMU, HostProbe
from provider_agent.doctor.market_probe import MarketProbe
from provider_agent.doctor.probe import Probe
from provider_agent.doctor.render import explain, offers, render, render_selftest, tested
from provider_agent.doctor.rows import ROWS
from provider_agent.doctor.settings import launcher_settings
from provider_agent.doctor.view import HostView, UnreadError
from provider_agent.errors import AgentError
from provider_agent.journal import replace_file
from provider_agent.machines.config import SOCKET_PATH
from provider_agent.machines.readings import LauncherProbe, reader_of
from provider_agent.market_client import MarketAddress
from trust.encoding import parse_hex
from trust.identity import PartyKey

KEY_FILE: Final = "key"
DOCTOR_FILE: Final = "doctor.json"
ROOT = Path("/")  # a test lays out another
CACHE: Final = Path("/var/cache/private/blindhost")
VENDORS: Final = {"dell": "dell", "lenovo": "lenovo", "supermicro": "ami", "asus": "ami"}
OFFER_FIELDS: Final = ("gpus", "vms", "memory-mib")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor` and `selftest` to the agent's commands."""
    doctor = commands.add_parser("doctor", help="what keeps this machine from being offered")
    doctor.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    doctor.add_argument("--explain", metavar="ID", help="one check: why it is made, what to do")
    doctor.add_argument("--only", metavar="ID", nargs="+", default=(), help="and what they need")
    doctor.add_argument("--fix", action="store_true", help="write what can be taken back")
    doctor.add_argument("--undo", action="store_true", help="with --fix: take it back")
    doctor.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    doctor.add_argument("--bundle", metavar="FILE", type=Path, help="write a redacted archive")
    doctor.add_argument("--offer", metavar="FIELD=N", nargs="+", default=(), help="gpus, vms, …")
    doctor.add_argument("--market", metavar="URL")
    doctor.add_argument("--market-identity", metavar="HEX")
    doctor.add_argument("--market-certificate", metavar="HEX", help="SHA-256; for https")
    doctor.add_argument(
        "--home",
        type=Path,
        help="the agent's: its key is known to the market; doctor.json stays there",
    )
    selftest = commands.add_parser("selftest", help="boot what this machine offers, and verify it")
    selftest.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    selftest.add_argument("--home", type=Path, required=True, help="home of the agent")
    selftest.add_argument("--platform", default="simulated", help="simulated, sev-snp or tdx")
    selftest.add_argument("--runtime", type=Path, help="folder with enclave_runtime and trust")


def run(options: argparse.Namespace) -> int:
    """Run either command; 0, 1 or 2 as the checks say. Raises AgentError, OSError."""
    if options.command == "selftest":
        return _selftest(options)
    if options.explain is not None:
        row = find_row(ROWS, options.explain)
        made = make_checks(ROWS, _context(options), only=(row.id,))
        _say(explain(row, next(each for each in made if each.row is row)))
        return 0
    if options.undo:
        return _undo(options)
    context = _context(options)
    made = make_checks(ROWS, context, only=options.only)
    if options.home is not None and not options.only:
        keep_report(options.home, made)
    if options.fix:
        return _fix(options, made, context)
    if options.bundle is not None:
        from provider_agent.doctor.bundle import write_bundle

        names = write_bundle(options.bundle, made, context)
        _say(f"{options.bundle}: {', '.join(names)}. Read it before you send it.", err=True)
    if options.json:
        _say(report_json(made, command="doctor", offers=offers(made)))
    else:
        _say(render(made, vendor=_vendor(context)))
    return exit_status(made)


def keep_report(home: Path, made: tuple[Check, ...]) -> None:
    """Leave the checks in the agent's home, where ``leases --why`` looks. Raises AgentError.

    A home that is not there is not made: then no agent will look.
    """
    if not home.is_dir():
        raise AgentError(f"no agent has a home at {home.name}")
    text = report_json(made, command="doctor", offers=offers(made))
    replace_file(home / DOCTOR_FILE, text.encode())


def _context(options: argparse.Namespace) -> Context:
    market = _market(options)
    view = HostView(root=ROOT)
    return Context(
        view=view,
        probe=_probe(view, market),
        now=_now(),
        wanted=_wanted(options.offer),
        market_named=market is not None,
    )


def _probe(view: HostView, market: MarketProbe | None) -> Probe:
    """With the launcher's own QEMU and admin tool, where it has been told which; and its eyes."""
    tool, qemu, launcher = ADMIN_TOOL, QEMU, None
    with contextlib.suppress(UnreadError):
        settings = launcher_settings(view)
        qemu = settings.qemu
        if settings.gpu_tool is not None:
            tool = (settings.gpu_tool, *ADMIN_TOOL[1:])
        if os.geteuid() != 0:  # root reads it all by itself
            launcher = reader_of(settings.platform, SOCKET_PATH)
    here = HostProbe(cache=CACHE, market=market, admin_tool=tool, qemu=qemu)
    return here if launcher is None else LauncherProbe(here, launcher)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - the entry point


def _milliseconds() -> int:
    return int(_now().timestamp() * 1000)


def _market(options: argparse.Namespace) -> MarketProbe | None:
    if options.market is None:
        return None
    if options.market_identity is None:
        raise AgentError("--market without --market-identity: anybody could answer")
    pin = options.market_certificate
    key = None
    if options.home is not None and (options.home / KEY_FILE).exists():
        key = PartyKey.from_bytes((options.home / KEY_FILE).read_bytes())
    return MarketProbe(
        address=MarketAddress(
            url=options.market,
            identity=parse_hex(options.market_identity),
            certificate_sha256=parse_hex(pin) if pin else None,
        ),
        key=key,
        clock=_milliseconds,
    )


def _wanted(fields: list[str]) -> Wanted:
    found: dict[str, int] = {}
    for each in fields:
        name, _, value = each.partition("=")
        if name not in OFFER_FIELDS or not value.isdecimal() or not 0 < int(value) < 1 << 32:
            raise AgentError(f"--offer {each[:40]!r}: wanted {'=N, '.join(OFFER_FIELDS)}=N")
        found[name] = int(value)
    return Wanted(
        gpus=found.get("gpus"), vms=found.get("vms", 1), memory_mib=found.get("memory-mib")
    )


def _vendor(context: Context) -> str | None:
    """Whose firmware menu it is, for the order of remedies."""
    try:
        maker = context.view.text("sys/class/dmi/id/sys_vendor", most=4096).lower()
    except UnreadError:
        return None
    return next((vendor for word, vendor in VENDORS.items() if word in maker), None)


# --- fix -----------------------------------------------------------------------------------------


def _fix(options: argparse.Namespace, made: tuple[Check, ...], context: Context) -> int:
    changes = plan(made, context)
    if not changes:
        _say("Nothing that this program could write would help. What remains is yours to do.")
        return exit_status(made)
    for each in changes:
        _say(each.diff())
    if not options.yes and not _agreed():
        _say("Nothing was written.")
        return exit_status(made)
    apply(ROOT, changes)
    _say("Written. It counts from the next boot on. Back again: doctor --fix --undo")
    return exit_status(made)


def _undo(options: argparse.Namespace) -> int:
    if not options.fix:
        raise AgentError("--undo takes back what --fix wrote: doctor --fix --undo")
    left = undo(ROOT)
    for each in left:
        _say(f"/{each} was changed since, and is left as it is")
    _say("Taken back." if not left else "The rest is taken back.")
    return 1 if left else 0


def _agreed() -> bool:
    """An answer from a terminal; without one, no."""
    if not sys.stdin.isatty():
        return False
    _say("Write these files? [y/N]")
    return sys.stdin.readline(16).strip().lower() in ("y", "yes")


def _selftest(options: argparse.Namespace) -> int:
    from provider_agent.doctor.selftest import Bench, check_platform

    bench = Bench(
        home=options.home,
        platform=options.platform,
        runtime=options.runtime.resolve() if options.runtime else None,
        view=HostView(root=Path("/")),
        now=_now(),
    )
    made = asyncio.run(check_platform(bench))
    if options.json:
        _say(report_json(made, command="selftest", offers=tested(made)))
    else:
        _say(render_selftest(made))
    return exit_status(made)


def _say(text: str, *, err: bool = False) -> None:
    print(text, file=sys.stderr if err else sys.stdout)
