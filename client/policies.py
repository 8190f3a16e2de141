"""Appraisal policies from files and from words on a command line.

Rules (docs/spec/evidence.md §4):
- A file is one JSON object or the same in YAML, with every field of the schema: none has a default,
  and an unknown one is refused. Bytes are base64url without padding, as in every document of ours.
- A genuine policy says where machines may stand, in words: whose endorsement of a facility counts,
  or that any facility will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import yaml

from trust.encoding import Json, parse_json
from trust.errors import PolicyError
from trust.image_release import ReleaseDemands
from trust.verifier.facility import FacilityDemands
from trust.verifier.policy import (
    AppraisalPolicy,
    any_facility,
    production,
    without_gpus,
)

POLICY_BYTES_MAX: Final = 1 << 20
FACILITY_AGE_DAYS_MAX: Final = 366  # machines move; an endorser looks once a year


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values: no aliases, so that a short file stays a small value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias, and a key that stands twice."""
        if self.check_event(yaml.events.AliasEvent):
            raise PolicyError("a policy in YAML has no aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """A mapping whose keys stand once."""
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise PolicyError("a policy names a field twice")
        return super().construct_mapping(node, deep)


def read_policy(path: Path) -> AppraisalPolicy:
    """Read a policy from a file, JSON or YAML. Raises PolicyError, EncodingError, OSError."""
    with path.open("rb") as file:
        data = file.read(POLICY_BYTES_MAX + 1)
    if len(data) > POLICY_BYTES_MAX:
        raise PolicyError(f"policy of more than {POLICY_BYTES_MAX} bytes")
    if data.lstrip().startswith(b"{"):
        return AppraisalPolicy.from_json(parse_json(data))
    try:
        value = yaml.load(data, _PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise PolicyError(f"policy: neither JSON nor YAML: {error}") from error
    return AppraisalPolicy.from_json(cast(Json, value))


def genuine(
    images: Sequence[bytes],
    *,
    endorsers: Sequence[bytes],
    market: bytes,
    allow_any_facility: bool,
    processor_alone: bool,
    releases: ReleaseDemands | None = None,
) -> AppraisalPolicy:
    """A shipped policy for genuine machines. Raises PolicyError.

    `endorsers` are whom to believe about facilities, `market` never counts as one of them.
    """
    if bool(endorsers) is allow_any_facility:
        raise PolicyError(
            "say where machines may stand: name who endorses facilities (recommended), or allow "
            "any facility; one of the two"
        )
    made = (
        any_facility(images, releases=releases)
        if allow_any_facility
        else production(
            images,
            FacilityDemands(
                endorsers=tuple(endorsers), age_days_max=FACILITY_AGE_DAYS_MAX, never=(market,)
            ),
            releases=releases,
        )
    )
    return without_gpus(made) if processor_alone else made
