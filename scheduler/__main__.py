"""The operator's scheduler: ``blindhost-scheduler serve --home DIR --market-home DIR``.

- It works on the market's own database, so it runs as the market's user and starts once the market
  has written where it listens. It never moves money and listens to nobody but its own Ray.
- ``HOME/ready.json`` stands while it is up: {"pid", "market", "session", "actors": {name: pid}}.
- It ends on SIGTERM or SIGINT with status 0, and leaves no process and no file but its Ray token.
- It logs ids and words: no document, no price, no path of a party.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from trust.encoding import parse_hex, parse_json
from trust.errors import BlindhostError, DocumentError

if TYPE_CHECKING:
    from scheduler.cluster import Cluster
    from scheduler.reconciler import RoundReport

LOG: Final = logging.getLogger("blindhost.scheduler")
DATABASE: Final = "market.db"
ENDPOINT: Final = "endpoint.json"
READY: Final = "ready.json"
MARKET_WAIT_SECONDS: Final = 60.0  # the market opens its database before it listens
ROUND_SECONDS: Final = 0.25  # a person sees a job move at once; an idle round costs milliseconds


class SchedulerError(BlindhostError):
    """What keeps the scheduler from starting."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="blindhost-scheduler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="match orders and look after jobs")
    serve_parser.add_argument("--home", type=Path, required=True, help="own folder, made 0700")
    serve_parser.add_argument("--market-home", type=Path, required=True, help="the market's folder")
    serve_parser.add_argument("--matchers", type=int, default=1, help="matcher shards")
    serve_parser.add_argument("--supervisors", type=int, default=1, help="supervisor shards")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", stream=sys.stderr)
    LOG.setLevel(logging.INFO)
    try:
        serve(
            home=options.home,
            market_home=options.market_home,
            matchers=options.matchers,
            supervisors=options.supervisors,
        )
    except (BlindhostError, ValueError, OSError) as error:
        sys.exit(f"blindhost-scheduler: {error}")
    sys.exit(0)


def serve(*, home: Path, market_home: Path, matchers: int, supervisors: int) -> None:
    """Run rounds until a signal comes.

    (1) One scheduler for a home. (2) The market is there. (3) The cluster; whatever ends this ends
    it. (4) Signals are ours again: Ray takes SIGTERM for itself while it starts.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    # Late, because Ray and the tables take a second: a signal meanwhile is heard.
    from scheduler.cluster import Cluster, ClusterConfig, StartInterruptedError

    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    with _locked(home / "lock"):  # (1)
        market = _await_market(market_home, stop)  # (2)
        if market is None:
            return
        config = ClusterConfig(
            home=home.absolute(),
            database=f"sqlite:///{(market_home / DATABASE).absolute()}",
            matchers=matchers,
            supervisors=supervisors,
        )
        with (
            contextlib.suppress(StartInterruptedError),  # a signal, and all is cleared away
            Cluster.running(config) as cluster,  # (3)
        ):
            _stop_on_signals(stop)  # (4)
            _run(cluster, home / READY, market, stop)
    LOG.info("stopped")


def _run(cluster: Cluster, ready: Path, market: str, stop: threading.Event) -> None:
    try:
        if not stop.is_set():
            _write_ready(ready, cluster, market)
            LOG.info("ready")
        while not stop.wait(ROUND_SECONDS):
            for report in cluster.round(_now()):
                _log(report)
    finally:
        ready.unlink(missing_ok=True)


def _now() -> int:
    return int(time.time() * 1000)  # noqa: TID251  entry point: rounds take `now` from here


def _stop_on_signals(stop: threading.Event) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _number, _frame: stop.set())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SchedulerError(f"another scheduler runs in {path.parent}") from error
    else:
        yield
    finally:
        os.close(descriptor)


def _await_market(home: Path, stop: threading.Event) -> str | None:
    """Identity of the market, in hex, once it listens; None if a signal came first."""
    deadline = time.monotonic() + MARKET_WAIT_SECONDS
    path = home / ENDPOINT
    while not path.exists():
        if stop.wait(0.05):
            return None
        if time.monotonic() > deadline:
            raise SchedulerError(f"no {ENDPOINT} in the market's home: it does not run")
    found = parse_json(path.read_bytes())
    identity = found.get("identity") if isinstance(found, dict) else None
    if not isinstance(identity, str) or len(parse_hex(identity)) != 32:
        raise DocumentError(f"{ENDPOINT}: identity is no 32 bytes in hex")
    return identity


def _write_ready(path: Path, cluster: Cluster, market: str) -> None:
    content = {
        "pid": os.getpid(),
        "market": market,
        "session": str(cluster.session),
        "actors": cluster.pids(),
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content) + "\n")
    part.replace(path)  # whoever sees the file sees it whole


def _log(report: RoundReport) -> None:
    for each in report.applied:
        LOG.info("job %s: %s: %s %s", each.job, each.rule, each.subject, each.outcome)
    for each in report.refused:
        LOG.warning("job %s: %s: %s refused: %s", each.job, each.rule, each.subject, each.outcome)


if __name__ == "__main__":
    main()
