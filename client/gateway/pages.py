"""Lists as OpenAI's clients page through them: ``after`` the last id of the page before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.gateway.errors import unsupported, wrong

Row = Mapping[str, object]


def page(
    query: Mapping[str, str], rows: Sequence[Row], *others: str, limit: int, most: int
) -> dict[str, object]:
    """One page of `rows`, which stand newest first. `others`: parameters that were looked at.

    (1) No parameter is passed over. (2) ``order`` turns the list. (3) ``after`` names a row of it.
    Raises ApiError.
    """
    known = {"after", "limit", "order", *others}
    if strange := sorted(set(query) - known):  # (1)
        raise unsupported(strange[0])
    order = query.get("order", "desc")  # (2)
    if order not in {"asc", "desc"}:
        raise wrong("order", "order is 'asc' or 'desc'")
    ordered = list(rows) if order == "desc" else list(reversed(rows))
    said = query.get("limit", str(limit))
    if not (said.isascii() and said.isdigit() and len(said) < 6 and 1 <= int(said) <= most):
        raise wrong("limit", f"limit is wanted from 1 to {most}")
    start = 0
    if (after := query.get("after")) is not None:  # (3)
        ids = [row["id"] for row in ordered]
        if after not in ids:
            raise wrong("after", "nothing here has the id that `after` names")
        start = ids.index(after) + 1
    chosen = ordered[start : start + int(said)]
    answer: dict[str, object] = {
        "object": "list",
        "data": chosen,
        "has_more": start + len(chosen) < len(ordered),
    }
    if chosen:
        answer |= {"first_id": chosen[0]["id"], "last_id": chosen[-1]["id"]}
    return answer
