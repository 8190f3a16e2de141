"""Searching the book of offers, and saying why so little fits. Pure, but for `load_book`.

- A *book* is every listed offer in columns, read at one version of the book. Whoever holds one that
  is current searches without the database.
- A clause gives a column of yes and no, one byte for each offer; a column is kept as one integer,
  so that "and", "not" and counting go over all offers at once.
- What a query may cost is bounded by `wire.CLAUSES_MAX`, `wire.WORDS_MAX` and `ROWS_MAX`.
- docs/spec/search.md says what each answer means; a test holds it against plain loops.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlmodel import Session, col, select

from marketplace import wire
from marketplace.models import Offer, OfferState, OfferTerms
from trust.encoding import INTEGER_MAX, parse_base64url
from trust.jobs import is_class_of

ROWS_MAX: Final = 200_000  # listed offers that a search looks at, the cheapest first

_COMPARE: Final[Mapping[wire.Comparison, Callable[[int, int], bool]]] = {
    wire.Comparison.EQUAL: operator.eq,
    wire.Comparison.UNEQUAL: operator.ne,
    wire.Comparison.BELOW: operator.gt,
    wire.Comparison.AT_MOST: operator.ge,
    wire.Comparison.ABOVE: operator.lt,
    wire.Comparison.AT_LEAST: operator.le,
}
"""The bound stands first, so that one call is bound for all of a column."""
_UP: Final = frozenset({wire.Comparison.ABOVE, wire.Comparison.AT_LEAST})
_DOWN: Final = frozenset({wire.Comparison.BELOW, wire.Comparison.AT_MOST})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """A column of words: each different one once, and a number for each offer."""

    distinct: tuple[str, ...]
    codes: tuple[int, ...]


class Book:
    """All listed offers at one version. `rows` is a table's rows: see `_COLUMNS`."""

    def __init__(self, version: int, rows: Sequence[Sequence[Any]]) -> None:
        self.version = version
        self._rows = rows
        self._orders: dict[tuple[wire.OfferOrder, bool], tuple[int, ...]] = {}
        ids, hosts, _, platforms, classes, gpus_of, gpus, memory, asks, floors, ends = (
            zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
        )
        self.asks: tuple[int, ...] = asks
        self.ends: tuple[int, ...] = ends
        self.ids: tuple[str, ...] = ids
        self._numbers: dict[wire.OfferNumber, tuple[int | None, ...]] = {
            wire.OfferNumber.GPUS: gpus,
            wire.OfferNumber.MEMORY: memory,
            wire.OfferNumber.PRICE: asks,
            wire.OfferNumber.FLOOR: floors,
            wire.OfferNumber.TOTAL: tuple(
                min(ask * count, INTEGER_MAX) for ask, count in zip(asks, gpus, strict=True)
            ),
        }
        self._words = {
            wire.OfferWord.PLATFORM: _words(platforms),
            wire.OfferWord.GPU: _words(gpus_of),
            wire.OfferWord.CLASS: _words(classes),
            wire.OfferWord.HOST: _words(parse_base64url(host).hex() for host in hosts),
            wire.OfferWord.OFFER: _words(ids),
        }

    def __len__(self) -> int:
        return len(self._rows)

    def numbers(self, field: wire.OfferNumber, now: int) -> tuple[int | None, ...]:
        """A column of numbers, at `now` (Unix milliseconds)."""
        if field is wire.OfferNumber.LEFT:
            return tuple((each - now) // 1000 for each in self.ends)
        return self._numbers[field]

    def words(self, field: wire.OfferWord) -> _Words:
        """A column of words."""
        return self._words[field]

    def sorted_by(self, order: wire.OfferOrder, *, descending: bool) -> tuple[int, ...]:
        """Places of all offers in this order; made once."""
        found = self._orders.get((order, descending))
        if found is None:
            sign = -1 if descending else 1
            values = self._sort_values(order)
            found = tuple(
                sorted(range(len(self)), key=lambda at: (sign * values[at], self.ids[at]))
            )
            self._orders[order, descending] = found
        return found

    def cursor(self, order: wire.OfferOrder, at: int) -> wire.OfferCursor:
        """Where the offer at this place stands in the order."""
        return wire.OfferCursor(value=self._sort_values(order)[at], offer=self.ids[at])

    def _sort_values(self, order: wire.OfferOrder) -> tuple[int, ...]:
        if order is wire.OfferOrder.LEFT:
            return self.ends
        # No order is by the floor, which alone may be missing.
        return cast(tuple[int, ...], self._numbers[wire.OfferNumber(order.value)])

    def view(self, at: int) -> wire.OfferView:
        """The offer at this place, as it goes on the wire."""
        name, host, number, platform, compute, gpu, gpus, memory, ask, floor, ends = self._rows[at]
        return wire.OfferView(
            host=parse_base64url(host),
            state=wire.OfferState.LISTED,
            terms_number=number,
            draft=wire.OfferDraft(
                offer=name,
                platform=platform,
                compute_class=compute,
                gpu_model=gpu,
                gpus=gpus,
                memory_mib=memory,
                ask_microcredits_per_gpu_hour=ask,
                floor_microcredits_per_gpu_hour=floor,
                ends_at=ends,
            ),
            deadline=ends,
        )


_COLUMNS: Final = (
    col(Offer.id),
    col(Offer.host),
    col(OfferTerms.number),
    col(OfferTerms.platform),
    col(OfferTerms.compute_class),
    col(OfferTerms.gpu_model),
    col(OfferTerms.gpus),
    col(OfferTerms.memory_mib),
    col(OfferTerms.ask),
    col(OfferTerms.floor),
    col(OfferTerms.ends_at_ms),
)


def book_version(session: Session) -> int:
    """Rises with every change of any offer: each has a version that rises, and none ever goes."""
    return int(session.exec(select(sa.func.sum(col(Offer.version)))).one() or 0)


def load_book(session: Session, version: int) -> Book:
    """Read every listed offer, the cheapest `ROWS_MAX` of them; `version` is the book's now."""
    query = (
        sa.select(*_COLUMNS)
        .where(
            col(Offer.state) == OfferState.LISTED,
            col(OfferTerms.offer_id) == col(Offer.id),
            col(OfferTerms.number) == col(Offer.terms_number),
        )
        .order_by(col(OfferTerms.ask), col(Offer.id))
        .limit(ROWS_MAX)
    )
    return Book(version, session.connection().execute(query).all())


def _words(column: Iterable[str]) -> _Words:
    known: dict[str, int] = {}
    codes = tuple(known.setdefault(word, len(known)) for word in column)
    return _Words(distinct=tuple(known), codes=codes)


# --- columns of yes and no -----------------------------------------------------------------------


def _mask(column: bytes) -> int:
    """A column as one integer, a byte of 0 or 1 for each offer."""
    return int.from_bytes(column, "big")


def _column(mask: int, size: int) -> bytes:
    return mask.to_bytes(size, "big")


def _places(mask: int, size: int) -> list[int]:
    return list(itertools.compress(range(size), _column(mask, size)))


def _living(book: Book, now: int) -> int:
    """Offers that have not ended: an offer expires by a sweep, and until then stands listed."""
    return _mask(bytes(map(functools.partial(operator.lt, now), book.ends)))


def _fits(book: Book, clause: wire.Clause, now: int) -> int:
    """Which offers fit one clause."""
    if isinstance(clause, wire.NumberClause):
        compare = functools.partial(_COMPARE[clause.comparison], clause.value)
        column = book.numbers(clause.field, now)
        if clause.field is wire.OfferNumber.FLOOR:
            return _mask(bytes([each is not None and compare(each) for each in column]))
        return _mask(bytes(map(compare, column)))
    words = book.words(clause.field)
    wanted = [value.lower() for value in clause.values]
    fitting = [
        any(_is_word(clause.field, word.lower(), each) for each in wanted) is not clause.excludes
        for word in words.distinct
    ]
    return _mask(bytes(map(fitting.__getitem__, words.codes)))


def _is_word(field: wire.OfferWord, word: str, value: str) -> bool:
    match field:
        case wire.OfferWord.CLASS:
            return is_class_of(value, word)
        case wire.OfferWord.HOST | wire.OfferWord.OFFER:
            return word.startswith(value)
        case _:
            return word == value


# --- a page --------------------------------------------------------------------------------------


def search(book: Book, query: wire.OfferQuery, now: int) -> wire.OfferPage:
    """The rows of a query at `now` (Unix milliseconds)."""
    living = _living(book, now)
    fitting = living
    for clause in query.clauses:
        fitting &= _fits(book, clause, now)
    column = _column(fitting, len(book))
    order = book.sorted_by(query.order, descending=query.descending)
    found = [at for at in order if column[at]]
    start = query.skip + (0 if query.after is None else _behind(book, query, found, query.after))
    shown = found[start : start + query.rows]
    more = bool(shown) and start + len(shown) < len(found)
    return wire.OfferPage(
        listed=living.bit_count(),
        total=len(found),
        offers=tuple(book.view(at) for at in shown),
        next=book.cursor(query.order, shown[-1]) if more else None,
        version=book.version,
    )


def _behind(
    book: Book, query: wire.OfferQuery, found: Sequence[int], after: wire.OfferCursor
) -> int:
    """How many rows stand at the cursor or before it."""
    sign = -1 if query.descending else 1

    def key(at: int) -> tuple[int, str]:
        cursor = book.cursor(query.order, at)
        return sign * cursor.value, cursor.offer

    return bisect.bisect_right(found, (sign * after.value, after.offer), key=key)


# --- why so few ----------------------------------------------------------------------------------


def explain(book: Book, query: wire.OfferQuery, now: int) -> wire.OfferFunnel:
    """What each clause takes away, and what a looser one would give.

    (1) Each clause's column. (2) What fits all clauses before one, and all behind it. (3) Where
    only one clause is in the way, its nearest looser value. (4) If nothing fits, the nearest miss.
    """
    living = _living(book, now)
    fits = [_fits(book, clause, now) for clause in query.clauses]  # (1)
    before = list(itertools.accumulate(fits, operator.and_, initial=living))  # (2)
    behind = list(itertools.accumulate(reversed(fits), operator.and_, initial=living))[::-1]
    steps = []
    for number, clause in enumerate(query.clauses):
        others = before[number] & behind[number + 1]
        only = others & ~fits[number]
        steps.append(
            wire.FunnelStep(
                clause=clause,
                left=before[number + 1].bit_count(),
                looser=_looser(book, clause, only, now),  # (3)
                without=only.bit_count(),
            )
        )
    miss = None
    if living and not before[-1]:  # (4)
        miss = _nearest_miss(book, fits, living)
    return wire.OfferFunnel(
        listed=living.bit_count(), steps=tuple(steps), nearest_miss=miss, version=book.version
    )


def _looser(book: Book, clause: wire.Clause, only: int, now: int) -> wire.LooserClause | None:
    if not only:
        return None
    places = _places(only, len(book))
    if isinstance(clause, wire.NumberClause):
        options = _looser_number(book, clause, places, now)
    else:
        options = _looser_words(book, clause, places)
    best: wire.LooserClause | None = None
    for option in options:
        gained = _places(only & _fits(book, option, now), len(book))
        if not gained:
            continue
        cheapest = min(book.asks[at] for at in gained)
        found = wire.LooserClause(clause=option, gain=len(gained), cheapest=cheapest)
        if best is None or (found.gain, -found.cheapest) > (best.gain, -best.cheapest):
            best = found
    return best


def _looser_number(
    book: Book, clause: wire.NumberClause, places: Sequence[int], now: int
) -> tuple[wire.Clause, ...]:
    """The nearest value that an offer has; from "equal" down first, where both are as near."""
    column = book.numbers(clause.field, now)
    values = {value for at in places if (value := column[at]) is not None}
    if not values or clause.comparison is wire.Comparison.UNEQUAL:
        return ()
    if clause.comparison in _UP:
        nearest, comparison = max(values), wire.Comparison.AT_LEAST
    elif clause.comparison in _DOWN:
        nearest, comparison = min(values), wire.Comparison.AT_MOST
    else:
        nearest = min(values, key=lambda value: (abs(value - clause.value), value))
        up = nearest < clause.value
        comparison = wire.Comparison.AT_LEAST if up else wire.Comparison.AT_MOST
    return (wire.NumberClause(field=clause.field, comparison=comparison, value=nearest),)


def _looser_words(
    book: Book, clause: wire.WordClause, places: Sequence[int]
) -> tuple[wire.Clause, ...]:
    """One value more; with `excludes`, one value less. The caller takes what gains most."""
    if clause.excludes:
        if len(clause.values) == 1:
            return ()
        rests = (
            clause.values[:number] + clause.values[number + 1 :]
            for number in range(len(clause.values))
        )
        return tuple(dataclasses.replace(clause, values=rest) for rest in rests)
    if len(clause.values) == wire.WORDS_MAX:
        return ()
    words = book.words(clause.field)
    counts: dict[int, list[int]] = {}
    for at in places:
        counts.setdefault(words.codes[at], []).append(book.asks[at])
    code = min(counts, key=lambda c: (-len(counts[c]), min(counts[c]), words.distinct[c]))
    return (dataclasses.replace(clause, values=(*clause.values, words.distinct[code])),)


def _nearest_miss(book: Book, fits: Sequence[int], living: int) -> wire.NearestMiss:
    """Bytes of a sum do not overflow: there are fewer clauses than a byte counts."""
    count = _column(sum(fits), len(book))
    places = _places(living, len(book))
    best = min(places, key=lambda at: (-count[at], book.asks[at], book.ids[at]))
    size = len(book)
    misses = tuple(n for n, mask in enumerate(fits) if not _column(mask, size)[best])
    return wire.NearestMiss(offer=book.view(best), misses=misses)
