"""What the offers screen knows, and its words.

- Pages belong together by query, order and version of the book; at most `PAGES_MAX` are kept, those
  that are nearest to the newest. What a newer version brings replaces them all.
- What was asked for last is `query` and `sort`. Pages of another query stay, marked *old*, until
  its own come; after an error they stay so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from tui.facts import Fact, Failure, Funnel, OfferPage, OfferRow, PolicyPreview, QueryError

PAGE_ROWS: Final = 200
PAGES_MAX: Final = 3
PREVIEWS_MAX: Final = 4096  # three pages of offers, a handful of custodians
COMPARED_MAX: Final = 4  # columns that a person can compare, and that fit
QUERY_CHARACTERS_MAX: Final = 2048


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Facts of offers."""

    query: str = ""
    sort: str = "price"
    """A column's id; ``-`` before it: the highest first."""
    asked_id: str = ""
    asked_at: int | None = None
    """None: nothing is awaited."""
    pages: tuple[OfferPage, ...] = ()
    """In the order of their starts."""
    funnel: Funnel | None = None
    error: QueryError | None = None
    failure: Failure | None = None
    previews: Mapping[str, PolicyPreview] = dataclasses.field(default_factory=dict)
    """By `PolicyPreview.key`."""
    compared: tuple[OfferRow, ...] = ()

    @property
    def total(self) -> int:
        """How many fit, by the pages that are shown."""
        return max(0, self.pages[0].total) if self.pages else 0

    @property
    def as_of(self) -> int | None:
        """When the newest page was true; None: there is none."""
        return max((each.as_of for each in self.pages), default=None)

    @property
    def old(self) -> bool:
        """What is shown does not answer what was asked."""
        return bool(self.pages) and (self.pages[0].query, self.pages[0].sort) != (
            self.query,
            self.sort,
        )


def asked(state: State, *, query: str, sort: str, command: str, now: int) -> State:
    """A search was posted."""
    same = query == state.query
    return dataclasses.replace(
        state,
        query=query,
        sort=sort,
        asked_id=command,
        asked_at=now,
        funnel=state.funnel if same else None,
        error=state.error if same else None,
        failure=None,
    )


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case OfferPage():
            return _page(state, fact)
        case Funnel() if fact.query == state.query and _newer(state.funnel, fact):
            return dataclasses.replace(state, funnel=fact)
        case QueryError() if fact.query == state.query:
            return dataclasses.replace(state, error=fact, asked_at=None)
        case PolicyPreview() if _newer(state.previews.get(fact.key), fact):
            previews = {**state.previews, fact.key: fact}
            while len(previews) > PREVIEWS_MAX:
                previews.pop(next(iter(previews)))
            return dataclasses.replace(state, previews=previews)
        case Failure() if state.asked_id and fact.where == state.asked_id:
            waits = state.asked_at if fact.retry_in is not None else None
            return dataclasses.replace(state, failure=fact, asked_at=waits)
        case _:
            return state


def _newer(old: Fact | None, new: Fact) -> bool:
    return old is None or new.as_of >= old.as_of


def _page(state: State, fact: OfferPage) -> State:
    if (fact.query, fact.sort) != (state.query, state.sort) or fact.start < 0:
        return state  # an answer to an earlier question
    kept = state.pages
    if kept:
        together = (kept[0].query, kept[0].sort, kept[0].version)
        if together != (fact.query, fact.sort, fact.version):
            same_question = together[:2] == (fact.query, fact.sort)
            if same_question and fact.as_of < (state.as_of or 0):
                return state
            kept = ()
        elif any(each.start == fact.start and each.as_of > fact.as_of for each in kept):
            return state
    others = [each for each in kept if each.start != fact.start]
    others.sort(key=lambda each: abs(each.start - fact.start))
    pages = sorted([fact, *others[: PAGES_MAX - 1]], key=lambda each: each.start)
    return dataclasses.replace(state, pages=tuple(pages), error=None, failure=None, asked_at=None)


def toggled(state: State, offer: OfferRow) -> State:
    """An offer is compared, or no more; the oldest goes when there are too many."""
    kept = tuple(each for each in state.compared if each.id != offer.id)
    if len(kept) == len(state.compared):
        kept = (*kept, offer)[-COMPARED_MAX:]
    return dataclasses.replace(state, compared=kept)


# --- rows -----------------------------------------------------------------------------------------


def offer_at(state: State, index: int) -> OfferRow | None:
    """An offer by its place; None: its page is not here."""
    for page in state.pages:
        if page.start <= index < page.start + len(page.rows):
            return page.rows[index - page.start]
    return None


def offer_named(state: State, name: str) -> OfferRow | None:
    """An offer of the pages by its id."""
    return next((row for page in state.pages for row in page.rows if row.id == name), None)


def pages_wanted(state: State, start: int, count: int) -> tuple[int, ...]:
    """Starts of the pages that these rows are on and that are not here; at most `PAGES_MAX`."""
    first, last = max(0, start) // PAGE_ROWS, max(0, start + max(1, count) - 1) // PAGE_ROWS
    here = {page.start for page in state.pages}  # one that came empty is not asked for again
    starts = [number * PAGE_ROWS for number in range(first, last + 1)]
    return tuple(each for each in starts if each not in here)[:PAGES_MAX]
