"""What an install is going to do, as a list that can be printed before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from provider_agent.install import units
from provider_agent.install.actions import ACTIONS
from provider_agent.install.release import HOST_FILES

PUBLIC_MODE: Final = 0o644


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeFolder:
    """A folder; `ours`: its name is the product's, so an uninstall removes it once it is empty."""

    name: str
    mode: int = 0o755
    ours: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildTree:
    """The environment of one version, from the bundle, beside all others."""

    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceFile:
    """A file with this content."""

    name: str
    content: bytes
    mode: int = PUBLIC_MODE


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceSecret:
    """32 random bytes, if there are none yet; mode 0600; they never leave the host."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceLink:
    """A symbolic link."""

    name: str
    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAction:
    """A command out of `ACTIONS`."""

    name: str


Step = MakeFolder | BuildTree | PlaceFile | PlaceSecret | PlaceLink | RunAction


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What differs between hosts: goes into ``agent.env``."""

    market: str
    """URL."""
    market_identity: str
    """Hexadecimal."""
    ask: int
    """Microcredits per GPU-hour."""
    more: str = ""
    """Further arguments of ``serve``."""

    def environment(self) -> bytes:
        """The file as systemd reads it (EnvironmentFile=, systemd.exec(5))."""
        values = {
            "BLINDHOST_MARKET": self.market,
            "BLINDHOST_MARKET_IDENTITY": self.market_identity,
            "BLINDHOST_ASK": str(self.ask),
            "BLINDHOST_MORE": self.more,
        }
        return "".join(f"{k}={_quoted(v)}\n" for k, v in values.items()).encode()


def _quoted(value: str) -> str:
    """In double quotes, where only these four are special; a line break is no argument's."""
    for special in '\\"`$':
        value = value.replace(special, "\\" + special)
    return f'"{value}"'


def activation(version: str, files: dict[str, bytes]) -> tuple[Step, ...]:
    """The steps that make `version` the one that runs; `files`: its host files by bundle path."""
    placed = {f"/{path.removeprefix(HOST_FILES)}": content for path, content in files.items()}
    unit_names = sorted(n for n in placed if n.startswith(f"/{units.SYSTEMD_FOLDER}"))
    others = sorted(n for n in placed if n not in unit_names)
    users = [n for n in others if "sysusers.d" in n]
    rest = [n for n in others if n not in users]
    return (
        *(PlaceFile(name=n, content=placed[n]) for n in users),
        RunAction(name="users"),
        RunAction(name="rules-gone"),
        *(PlaceFile(name=n, content=placed[n]) for n in rest),
        RunAction(name="rules"),
        RunAction(name="units-gone"),
        *(PlaceFile(name=n, content=placed[n]) for n in unit_names),
        PlaceLink(name=units.CURRENT, target=version),
        RunAction(name="units"),
    )


def installation(
    version: str, files: dict[str, bytes], *, release_key: bytes, settings: Settings | None
) -> tuple[Step, ...]:
    """Every step of an install, in its order; an uninstall takes them back from the last."""
    configured = (
        (PlaceFile(name=units.AGENT_ENVIRONMENT, content=settings.environment()),)
        if settings
        else ()
    )
    return (
        MakeFolder(name=units.HOME),
        MakeFolder(name=units.CONFIGURATION),
        BuildTree(version=version),
        PlaceFile(name=units.RELEASE_KEY, content=f"{release_key.hex()}\n".encode()),
        PlaceSecret(name=units.IDENTITY),
        *configured,
        *activation(version, files),
        PlaceLink(name=units.COMMAND, target=f"{units.CURRENT}/bin/blindhost-agent"),
        RunAction(name="launcher"),
        RunAction(name="agent"),
        RunAction(name="updates"),
    )


def describe(step: Step) -> str:
    """One line for people."""
    match step:
        case MakeFolder(name=name, mode=mode):
            return f"folder   {name} (mode {mode:04o})"
        case BuildTree(version=version):
            return (
                f"unpack   {units.HOME}/{version}: an environment of its own, from the bundle alone"
            )
        case PlaceFile(name=name, content=content):
            return f"file     {name} ({len(content)} bytes)"
        case PlaceSecret(name=name):
            return f"secret   {name}: made on this host if there is none, mode 0600"
        case PlaceLink(name=name, target=target):
            return f"link     {name} -> {target}"
        case RunAction(name=name):
            commands = "; ".join(" ".join(argv) for argv in ACTIONS[name].do)
            return f"run      {ACTIONS[name].purpose}{': ' + commands if commands else ''}"
