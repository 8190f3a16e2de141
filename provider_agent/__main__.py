"""``blindhost-agent``: the host's command. It dials out, and listens to nobody.

The wall clock is read here, and nowhere else in this package; the environment not even here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import fcntl
import importlib.metadata
import json
import logging
import os
import secrets
import signal
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import aiohttp

from marketplace.wire import OfferDraft
from provider_agent.cache import BlobCache, quota
from provider_agent.commands import (
    cache,
    doctor,
    earnings,
    endorsements,
    install,
    launcher,
    leases,
    maintenance,
    pricing,
)
from provider_agent.earnings.desk import Desk, check_start
from provider_agent.earnings.host_market import HostMarket
from provider_agent.errors import AgentError
from provider_agent.install.notify import Notifier, Pulse
from provider_agent.inventory import read_inventory
from provider_agent.journal import Journal, replace_file
from provider_agent.keeper import Keeper
from provider_agent.launcher import Chip, Launcher
from provider_agent.machines import serve_options
from provider_agent.machines.spec import Platform
from provider_agent.market_client import MarketAddress
from provider_agent.offers import OfferKeeper, make_offer_id
from provider_agent.refusals import Enrolment
from provider_agent.simulated_chip import CHIP_FILE, GPU_FILE
from trust.encoding import parse_hex
from trust.errors import BlindhostError
from trust.identity import PartyKey
from trust.simulated import SimulatedChip, SimulatedGpu, SimulatedNvidia, SimulatedRoot

ROOT_FILE: Final = "root"
NVIDIA_FILE: Final = "nvidia"
KEY_FILE: Final = "key"
LOCK_FILE: Final = "lock"
STATUS_FILE: Final = "agent.json"
CHIP_FOLDER: Final = "chip"
ROUND_SECONDS: Final = 0.5
ROUND_SECONDS_MAX: Final = 300.0  # a machine with GPUs takes minutes; then the watchdog may bite
PING_SECONDS: Final = 10.0
CREDENTIAL: Final = "identity"
STOP_SECONDS_MAX: Final = 30.0  # then what is left is the next start's
OFFER_DAYS: Final = 30
COMMANDS: Final[dict[str, ModuleType]] = {
    **{
        module.NAME: module
        for module in (cache, earnings, endorsements, leases, maintenance, pricing)
    },
    "doctor": doctor,
    "selftest": doctor,
    "launcher": launcher,
    **dict.fromkeys(("install", "status", "logs", "upgrade", "uninstall"), install),
}
"""Sub-commands, and the modules that add and run them."""

_log = logging.getLogger("blindhost.agent")


def wall_clock() -> int:
    """Unix milliseconds."""
    return int(dt.datetime.now(dt.UTC).timestamp() * 1000)  # noqa: TID251 - the entry point


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        if options.command in COMMANDS:
            status: int = COMMANDS[options.command].run(options)
            return status
        match options.command:
            case "simulated-root":
                return _simulated_root(_home(options.home))
            case "simulated-chip":
                return _simulated_chip(options.root.resolve(), _home(options.home))
            case _:
                with (_home(options.home) / LOCK_FILE).open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return asyncio.run(_serve(options, _home(options.home)))
    except BlockingIOError:
        _log.error("refused reason=another agent runs in this home")
        return os.EX_TEMPFAIL
    except (BlindhostError, OSError, sqlite3.Error) as error:
        _log.error("refused reason=%s", error)
        return os.EX_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blindhost-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    root = commands.add_parser("simulated-root", help="make a throwaway root for simulated chips")
    root.add_argument("--home", type=Path, required=True)
    chip = commands.add_parser("simulated-chip", help="make a simulated chip under such a root")
    chip.add_argument("--root", type=Path, required=True, help="home of the root")
    chip.add_argument("--home", type=Path, required=True, help="home of the agent")
    serve = commands.add_parser("serve", help="offer this machine, and run what is leased")
    serve.add_argument("--home", type=Path, required=True)
    serve.add_argument("--market", required=True, help="URL of the market")
    serve.add_argument("--market-identity", required=True, help="hex")
    serve.add_argument("--market-certificate", help="SHA-256 of its certificate, hex: for https")
    serve.add_argument("--ask", type=int, required=True, help="microcredits per GPU-hour")
    serve.add_argument("--floor", type=int, help="least price for interruptible orders")
    serve.add_argument("--gpu-model", default="cpu")
    serve.add_argument("--gpus", type=int, default=1)
    serve.add_argument("--platform", default="sev-snp")
    serve.add_argument("--memory-mib", type=int, help="default: all that the machine has")
    serve.add_argument("--compute-class", help="default: as the inventory finds it")
    serve.add_argument("--cache-mib", type=int, help="ciphertext kept; else 60 %% of free space")
    serve.add_argument("--runtime", type=Path, help="folder with enclave_runtime and trust")
    serve_options.add_options(serve)
    for module in dict.fromkeys(COMMANDS.values()):
        module.add_parser(commands)
    return parser


def _home(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        raise AgentError(f"home {folder.name} is open to others; wanted mode 0700")
    return folder.resolve()


# --- the simulated platform ----------------------------------------------------------------------


def _now() -> dt.datetime:
    return dt.datetime.fromtimestamp(wall_clock() / 1000, dt.UTC)


def _simulated_root(home: Path) -> int:
    path = home / ROOT_FILE
    if not path.exists():
        replace_file(path, SimulatedRoot.create(_now()).to_bytes())
    if not (home / NVIDIA_FILE).exists():
        replace_file(home / NVIDIA_FILE, SimulatedNvidia.create(_now()).to_bytes())
    root = SimulatedRoot.from_bytes(path.read_bytes())
    nvidia = SimulatedNvidia.from_bytes((home / NVIDIA_FILE).read_bytes())
    _say(
        {
            "fingerprint": root.fingerprint.hex(),
            "product": root.product.value,
            "nvidia_device_fingerprint": nvidia.device_fingerprint.hex(),
            "nvidia_rim_fingerprint": nvidia.rim_fingerprint.hex(),
        }
    )
    return os.EX_OK


def _simulated_chip(root_home: Path, home: Path) -> int:
    path = _home(home / CHIP_FOLDER) / CHIP_FILE
    if not path.exists():
        root = SimulatedRoot.from_bytes((root_home / ROOT_FILE).read_bytes())
        replace_file(path, root.issue_chip(secrets.token_bytes(64), _now()).to_bytes())
    chip = SimulatedChip.from_bytes(path.read_bytes())
    said = {"chip_id": chip.chip_id.hex(), "root": chip.root_fingerprint.hex()}
    if (gpu := _simulated_gpu(root_home / NVIDIA_FILE, path.with_name(GPU_FILE))) is not None:
        said |= {"gpu_serial": gpu.serial, "gpu_root": gpu.root_fingerprint.hex()}
    _say(said)
    return os.EX_OK


def _simulated_gpu(nvidia_file: Path, path: Path) -> SimulatedGpu | None:
    """The GPU beside a chip, with fresh OCSP responses; None under a root older than GPUs."""
    if not nvidia_file.exists():
        return None
    nvidia = SimulatedNvidia.from_bytes(nvidia_file.read_bytes())
    if path.exists():
        gpu = SimulatedGpu.from_bytes(path.read_bytes())
    else:
        gpu = nvidia.issue_gpu(secrets.token_bytes(8))
    gpu = nvidia.staple(gpu, _now())
    replace_file(path, gpu.to_bytes())
    return gpu


def _say(value: dict[str, str]) -> None:
    print(json.dumps(value))  # noqa: T201 - the command's answer


# --- serve ---------------------------------------------------------------------------------------


def _load_key(path: Path) -> PartyKey:
    if not path.exists():
        replace_file(path, PartyKey.generate().to_bytes())
    return PartyKey.from_bytes(path.read_bytes())


def _draft(options: argparse.Namespace) -> OfferDraft:
    found = read_inventory(Path("/"))
    now = wall_clock()
    return OfferDraft(
        offer=make_offer_id(now=now, random=secrets.token_bytes(10)),
        platform=options.platform,
        compute_class=options.compute_class or found.compute_class(options.gpu_model),
        gpu_model=options.gpu_model,
        gpus=options.gpus,
        memory_mib=options.memory_mib or found.memory_mib,
        ask_microcredits_per_gpu_hour=options.ask,
        floor_microcredits_per_gpu_hour=options.floor,
        ends_at=now + OFFER_DAYS * 86_400_000,
    )


def _enrolment(options: argparse.Namespace, home: Path) -> Enrolment:
    """What this host serves: a chip file in its home, or an emulated machine, is no hardware."""
    if options.launcher is not None:
        return serve_options.enrolment_of(Platform(options.machine_platform))
    simulated = (home / CHIP_FOLDER / CHIP_FILE).exists()
    return Enrolment.SIMULATED if simulated else Enrolment.REAL


def _key_file(home: Path) -> Path:
    """The host's identity: a credential where systemd hands one in, else a file of the home."""
    handed = os.environ.get("CREDENTIALS_DIRECTORY")  # noqa: TID251 - an entry point
    credential = None if handed is None else Path(handed) / CREDENTIAL
    return credential if credential is not None and credential.exists() else home / KEY_FILE


async def _pings(pulse: Pulse) -> None:
    while True:
        pulse.ping()
        await asyncio.sleep(PING_SECONDS)


async def _serve(options: argparse.Namespace, home: Path) -> int:
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))  # noqa: TID251 - an entry point
    pulse = Pulse(notifier, clock=asyncio.get_running_loop().time, stall_seconds=ROUND_SECONDS_MAX)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    key = _load_key(_key_file(home))
    draft = _draft(options)
    machines = None
    if options.launcher is not None:
        machines = serve_options.machine_launcher(
            options,
            memory_mib=draft.memory_mib,
            certificates=await serve_options.first_certificates(options, _now),
        )
    enrolment = _enrolment(options, home)
    version = importlib.metadata.version("blindhost")
    said = check_start(home, key=_key_file(home), found=enrolment, uid=os.getuid(), version=version)
    if said is not None:
        _log.warning("allowed reason=%s", said)
    certificate = options.market_certificate
    address = MarketAddress(
        url=options.market,
        identity=parse_hex(options.market_identity),
        certificate_sha256=parse_hex(certificate) if certificate else None,
    )
    runtime = options.runtime.resolve() if options.runtime else None
    chip = (
        serve_options.FoundLauncher(machines)
        if machines
        else Chip(home / CHIP_FOLDER, runtime=runtime)
    )
    async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session:
        market = HostMarket(session, address=address, key=key, clock=wall_clock)
        desk = Desk(
            home, market=market, identity=address.identity, enrolment=enrolment, clock=wall_clock
        )
        offer = OfferKeeper(
            home / "offer",
            market=market,
            draft=draft,
            clock=wall_clock,
            note=desk.accounts.offer_is,
        )
        keeper = Keeper(
            journal=Journal(home / "leases"),
            market=market,
            chip=machines or Launcher(home / CHIP_FOLDER),
            cache=BlobCache(home / "cache", bytes_max=quota(home / "cache", options.cache_mib)),
            clock=wall_clock,
            gate=desk.gate(offer),
            accounts=desk.accounts,
        )
        beside: list[asyncio.Task[None]] = []
        try:
            view = await chip.find_or_start()
            status = {"identity": key.identity.hex(), "pid": os.getpid(), "chip_pid": view.pid}
            replace_file(home / STATUS_FILE, json.dumps(status).encode())
            _log.info("serving identity=%s chip-root=%s", key.identity.hex(), view.root.hex())
            notifier.ready()
            beside.append(asyncio.create_task(_pings(pulse)))
            if machines is not None:
                keeping = serve_options.keep_certificates(options, machines, _now)
                beside.append(asyncio.create_task(keeping))
            rounds = Rounds(desk=desk, keeper=keeper, offer=offer, chip=chip)
            await _rounds(stop, rounds, pulse, notifier)
        finally:
            notifier.stopping()
            for task in beside:
                task.cancel()
            with contextlib.suppress(TimeoutError):
                ending = end(keeper, offer, outlive=machines is not None)
                await asyncio.wait_for(ending, STOP_SECONDS_MAX)
            await chip.stop()
            desk.close()
            (home / STATUS_FILE).unlink(missing_ok=True)
    return os.EX_OK


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What a round of work goes through."""

    desk: Desk
    keeper: Keeper
    offer: OfferKeeper
    chip: Chip | serve_options.FoundLauncher


async def _rounds(stop: asyncio.Event, of: Rounds, pulse: Pulse, notifier: Notifier) -> None:
    while not stop.is_set():
        pulse.beat()
        try:
            await of.chip.find_or_start()
            await of.desk.round(of.offer, of.keeper)
            if of.keeper.answered_at is not None:
                notifier.heartbeat(of.keeper.answered_at)
        except OSError as error:  # a full disk: what is on record stands, and is tried again
            _log.error("disk reason=%s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), ROUND_SECONDS)


async def end(keeper: Keeper, offer: OfferKeeper, *, outlive: bool) -> None:
    """The agent stops. `outlive`: machines run on, and the next agent adopts them.

    A simulated chip ends with its agent, and so its enclaves do. A machine outlives an upgrade, a
    crash and a stop alike: who wants its lease to end plans maintenance, or drains. Either way no
    new lease comes meanwhile.
    """
    await offer.withdraw()
    if outlive:
        await keeper.close()
    else:
        await keeper.stop_all("host-stopped")


if __name__ == "__main__":
    sys.exit(main())
