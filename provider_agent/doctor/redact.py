"""Takes out of a text what names a machine, its owner or its network.

Rules:
- What identifies goes: addresses, serial numbers, UUIDs, host and user names, keys, and every long
  run of hex or base64 in which one could hide. When in doubt, it goes: a bundle is for strangers.
- What is left says what was there (``[mac]``), so that a log still reads.
- PCI addresses and register values stay: every machine has the same, and they are the point.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

NAME_CHARACTERS_LEAST: Final = 3  # a host called `a` would take every letter a with it
LINE_CHARACTERS_MAX: Final = 4000  # patterns are tried at every place of a line

_MAC: Final = re.compile(
    r"(?<![0-9A-Fa-f:.-])(?:[0-9A-Fa-f]{2}[:-]){5,}[0-9A-Fa-f]{2}(?![0-9A-Fa-f])"
)
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}(?![0-9A-Fa-f])")
_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]|\.\d)")
_IPV6: Final = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f:]{0,40}:[0-9A-Fa-f:]{0,40}:[0-9A-Fa-f:.]{0,40}(?:%\w{1,16})?(?:/\d+)?"
)
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_LONG: Final = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{24,}")
_HEX: Final = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{17,}(?![0-9A-Za-z])")
_WORDED: Final = re.compile(
    r"(?i)\b((?:[\w-]{0,40}serial[\w-]{0,40}(?: ?n(?:umber|o)\b\.?)?|s/n|asset[ _-]?tag|"
    r"service[ _-]?tag|[\w-]{0,40}(?:passw(?:or)?d|secret|token|credential|api[_-]?key|"
    r"private[_-]?key|psk|cookie)[\w-]{0,40}|host[ _-]?name|nodename|machine[ _-]?id|wwn|eui)"
    r"\s*[:=]\s*)(\"[^\"]*\"|\S+)"
)
_CMDLINE: Final = re.compile(
    r"(?i)(?<!\S)((?:root|resume|ip|nfsroot|rd\.luks[\w.]*|luks[\w.]*|cryptdevice|rd\.lvm[\w.]*|"
    r"netconsole|ds|cloud-config-url|hostname|systemd\.hostname|ifname|BOOTIF|rd\.znet|"
    r"systemd\.set_credential[\w.]*|inst\.[\w.]+)=)(\S+)"
)
_HOME: Final = re.compile(r"(/(?:home|Users)/)[^/\s\"']+")
_MAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,8}")
_HOST: Final = re.compile(
    r"(?i)(?<![\w-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+"
    r"(?:com|net|org|io|de|eu|uk|fr|nl|cloud|dev|lan|local|internal|home|corp|arpa|intra|info|"
    r"example|test|invalid|localdomain)(?![\w-])"
)


def redact(text: str, *, names: Iterable[str] = ()) -> str:
    """`text` without what identifies; `names` are this machine's own words for itself."""
    text = "\n".join(line[:LINE_CHARACTERS_MAX] for line in text.split("\n"))
    text = _MAIL.sub("[mail]", text)
    text = _HOST.sub("[host]", text)  # before names: what is left of a domain would be none
    for name in sorted(set(names), key=len, reverse=True):
        if len(name) >= NAME_CHARACTERS_LEAST:
            text = re.sub(rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", "[name]", text)
    text = _PEM.sub("[key]", text)
    text = _WORDED.sub(r"\1[removed]", text)
    text = _CMDLINE.sub(r"\1[removed]", text)
    text = _UUID.sub("[uuid]", text)
    text = _MAC.sub("[mac]", text)
    text = _IPV6.sub(_address, text)
    text = _IPV4.sub(_address, text)
    text = _HEX.sub("[hex]", text)
    text = _HOME.sub(r"\1[user]", text)
    return _LONG.sub(_long, text)


def _address(match: re.Match[str]) -> str:
    """An address goes; a time (12:30:01) and a PCI address (0000:41:00.0) are none, and stay."""
    found = match[0]
    bare = found.split("%")[0].split("/")[0].rstrip(".:") or found
    for candidate in (found.split("%")[0].split("/")[0], bare):
        try:
            address = ipaddress.ip_address(candidate)
        except ValueError:
            continue
        return found if address.is_unspecified else "[address]"
    return found


def _long(match: re.Match[str]) -> str:
    """A long run that may be a key; a path, or a long name of short words, is none."""
    found = match[0]
    if found.endswith("="):
        return "[key]"
    if found.startswith("/"):
        parts = found.split("/")
        return "[key]" if any(len(each) >= 16 and _is_mixed(each) for each in parts) else found
    if len({_kind(each) for each in found} - {""}) == 3:
        return "[key]"
    longest = max(re.split(r"[-_/=+]", found), key=len)
    return "[key]" if len(longest) >= 20 and _is_mixed(longest) else found


def _is_mixed(word: str) -> bool:
    return len({_kind(each) for each in word} - {""}) >= 2


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "upper" if character.isupper() else "lower"
    return ""
