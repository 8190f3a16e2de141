"""The book's search and its funnel, held against plain loops over plain rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from marketplace import claims, offers, search, wire
from marketplace.ids import IdKind
from marketplace.models import OfferState
from marketplace.store import Store
from tests.marketplace.world import HOST, NOW, OPERATOR, World, list_offer, new_id
from trust.encoding import base64url

Number, Word, Sign = wire.OfferNumber, wire.OfferWord, wire.Comparison
HOUR = 3_600_000


@dataclasses.dataclass(frozen=True)
class Row:
    """An offer as the oracle sees it."""

    offer: str
    host: bytes
    platform: str
    compute: str
    gpu: str
    gpus: int
    memory: int
    ask: int
    floor: int | None
    ends: int

    def columns(self) -> tuple[object, ...]:
        return (
            self.offer, base64url(self.host), 1, self.platform, self.compute, self.gpu,
            self.gpus, self.memory, self.ask, self.floor, self.ends,
        )  # fmt: skip

    def fits(self, clause: wire.Clause) -> bool:
        if isinstance(clause, wire.NumberClause):
            value = {
                Number.GPUS: self.gpus,
                Number.MEMORY: self.memory,
                Number.PRICE: self.ask,
                Number.FLOOR: self.floor,
                Number.TOTAL: self.ask * self.gpus,
                Number.LEFT: (self.ends - NOW) // 1000,
            }[clause.field]
            if value is None:
                return False
            bound = clause.value
            return {
                Sign.EQUAL: value == bound,
                Sign.UNEQUAL: value != bound,
                Sign.BELOW: value < bound,
                Sign.AT_MOST: value <= bound,
                Sign.ABOVE: value > bound,
                Sign.AT_LEAST: value >= bound,
            }[clause.comparison]
        found = any(self._is(clause.field, each.lower()) for each in clause.values)
        return found is not clause.excludes

    def _is(self, field: wire.OfferWord, value: str) -> bool:
        if field is Word.HOST:
            return self.host.hex().startswith(value)
        if field is Word.OFFER:
            return self.offer.startswith(value)
        if field is Word.CLASS:
            return set(value.split(";")) <= set(self.compute.lower().split(";"))
        return {Word.PLATFORM: self.platform, Word.GPU: self.gpu}[field].lower() == value


def number_of(row: Row, order: wire.OfferOrder) -> int:
    return {
        wire.OfferOrder.PRICE: row.ask,
        wire.OfferOrder.TOTAL: row.ask * row.gpus,
        wire.OfferOrder.GPUS: row.gpus,
        wire.OfferOrder.MEMORY: row.memory,
        wire.OfferOrder.LEFT: row.ends,
    }[order]


ROWS = st.lists(
    st.builds(
        Row,
        offer=st.just(""),
        host=st.sampled_from([b"\x01" * 32, b"\x02" * 32]),
        platform=st.sampled_from(["sev-snp", "tdx", "plain"]),
        compute=st.sampled_from(["cpu=a", "cpu=a;gpu=h", "cpu=b"]),
        gpu=st.sampled_from(["H100", "h100", "A100", "cpu"]),
        gpus=st.integers(1, 4),
        memory=st.integers(0, 6),
        ask=st.integers(0, 6),
        floor=st.none() | st.integers(0, 3),
        ends=st.integers(NOW - 2000, NOW + 4000),
    ),
    max_size=12,
).map(lambda rows: [dataclasses.replace(r, offer=f"offr_{n:026d}") for n, r in enumerate(rows)])
VALUES = {
    Word.PLATFORM: ["sev-snp", "TDX", "none"],
    Word.GPU: ["H100", "a100", "x"],
    Word.CLASS: ["cpu=a", "gpu=h", "cpu=a;gpu=h"],
    Word.HOST: ["01", "02", "0"],
    Word.OFFER: ["offr_", "offr_00000000000000000000000001"],
}
WORD_CLAUSES = st.sampled_from(list(Word)).flatmap(
    lambda field: st.builds(
        wire.WordClause,
        field=st.just(field),
        values=st.lists(st.sampled_from(VALUES[field]), min_size=1, max_size=3).map(tuple),
        excludes=st.booleans(),
    )
)
CLAUSES = st.lists(
    st.builds(
        wire.NumberClause,
        field=st.sampled_from(list(Number)),
        comparison=st.sampled_from(list(Sign)),
        value=st.integers(0, 8),
    )
    | WORD_CLAUSES,
    max_size=4,
).map(tuple)


def book_of(rows: list[Row]) -> search.Book:
    return search.Book(7, [each.columns() for each in rows])


def query(clauses: tuple[wire.Clause, ...], **changes: object) -> wire.OfferQuery:
    values = {
        "clauses": clauses,
        "order": wire.OfferOrder.PRICE,
        "descending": False,
        "after": None,
        "skip": 0,
        "rows": 200,
    }
    return wire.OfferQuery(**values | changes)


@given(ROWS, CLAUSES, st.sampled_from(list(wire.OfferOrder)), st.booleans())
def test_a_page_is_what_plain_loops_find_in_the_order_that_was_asked(
    rows: list[Row], clauses: tuple[wire.Clause, ...], order: wire.OfferOrder, down: bool
) -> None:
    living = [row for row in rows if row.ends > NOW]
    fitting = [row for row in living if all(row.fits(clause) for clause in clauses)]
    sign = -1 if down else 1
    wanted = sorted(fitting, key=lambda row: (sign * number_of(row, order), row.offer))
    page = search.search(book_of(rows), query(clauses, order=order, descending=down), NOW)
    assert [each.draft.offer for each in page.offers] == [row.offer for row in wanted]
    assert (page.listed, page.total, page.version) == (len(living), len(wanted), 7)
    assert page.next is None


@given(ROWS, st.sampled_from(list(wire.OfferOrder)), st.booleans(), st.integers(1, 3))
def test_pages_by_cursor_and_pages_by_place_give_every_row_once(
    rows: list[Row], order: wire.OfferOrder, down: bool, size: int
) -> None:
    book = book_of(rows)
    whole = search.search(book, query((), order=order, descending=down), NOW).offers
    asked = query((), order=order, descending=down, rows=size)
    found, after = [], None
    while True:
        page = search.search(book, dataclasses.replace(asked, after=after), NOW)
        found += page.offers
        assert (
            search.search(
                book, dataclasses.replace(asked, skip=len(found) - len(page.offers)), NOW
            ).offers
            == page.offers
        )
        if page.next is None:
            break
        after = page.next
    assert tuple(found) == whole


@given(ROWS, CLAUSES)
def test_the_funnel_is_what_plain_loops_count(
    rows: list[Row], clauses: tuple[wire.Clause, ...]
) -> None:
    living = [row for row in rows if row.ends > NOW]
    funnel = search.explain(book_of(rows), query(clauses), NOW)
    assert funnel.listed == len(living)
    for number, step in enumerate(funnel.steps):
        left = [r for r in living if all(r.fits(c) for c in clauses[: number + 1])]
        others = [c for n, c in enumerate(clauses) if n != number]
        only = [r for r in living if all(r.fits(c) for c in others) and not r.fits(clauses[number])]
        assert (step.clause, step.left, step.without) == (clauses[number], len(left), len(only))
        if step.looser is not None:
            gained = [r for r in only if r.fits(step.looser.clause)]
            assert step.looser.gain == len(gained) > 0
            assert step.looser.cheapest == min(r.ask for r in gained)
            assert type(step.looser.clause) is type(step.clause)
            assert step.looser.clause.field is step.clause.field
    fitting = [r for r in living if all(r.fits(c) for c in clauses)]
    assert (funnel.nearest_miss is None) == (not living or bool(fitting))
    if funnel.nearest_miss is not None:
        misses = {r.offer: [n for n, c in enumerate(clauses) if not r.fits(c)] for r in living}
        best = min(living, key=lambda r: (len(misses[r.offer]), r.ask, r.offer))
        assert funnel.nearest_miss.offer.draft.offer == best.offer
        assert list(funnel.nearest_miss.misses) == misses[best.offer]


@given(ROWS, st.sampled_from(["<", "<=", ">", ">="]), st.integers(0, 8))
def test_no_value_nearer_than_the_looser_one_brings_an_offer(
    rows: list[Row], sign: str, bound: int
) -> None:
    clause = wire.NumberClause(field=Number.PRICE, comparison=Sign(sign), value=bound)
    (step,) = search.explain(book_of(rows), query((clause,)), NOW).steps
    only = {row.ask for row in rows if row.ends > NOW and not row.fits(clause)}
    if not only:
        assert step.looser is None
        return
    assert step.looser is not None
    assert isinstance(step.looser.clause, wire.NumberClause)
    assert step.looser.clause.value == (max(only) if sign[0] == ">" else min(only))


def test_an_offer_without_a_floor_fits_no_clause_about_floors() -> None:
    row = Row("offr_" + "0" * 26, b"\x01" * 32, "p", "c", "g", 1, 1, 5, None, NOW + HOUR)
    for sign in Sign:
        clause = wire.NumberClause(field=Number.FLOOR, comparison=sign, value=0)
        page = search.search(book_of([row]), query((clause,)), NOW)
        assert (page.listed, page.total) == (1, 0)


# --- the book of a database ----------------------------------------------------------------------


def test_every_change_of_an_offer_is_another_version_of_the_book(store: Store) -> None:
    seen = set[int]()

    def changed(work: Callable[..., object]) -> None:
        with store.transaction() as session:
            work(session)
        with store.reading() as session:
            version = search.book_version(session)
            assert not seen or version > max(seen)
            seen.add(version)
            book = search.load_book(session, version)
        listed = [each.draft.offer for each in search.search(book, query(()), NOW).offers]
        assert listed == wanted

    wanted: list[str] = []
    names: list[str] = []
    with store.transaction() as session:
        names.append(list_offer(session, HOST))
    wanted = [names[0]]
    terms = offers.Terms(
        platform="p", compute_class="c", gpu_model="g", gpus=1, memory_mib=1, ask=3, floor=None,
        ends_at=NOW + HOUR,
    )  # fmt: skip
    changed(lambda s: offers.change_offer(
        s, offers.ChangeOffer(id=names[0], version=1, terms=terms), NOW
    ))  # fmt: skip
    wanted = []
    changed(lambda s: offers.move_offer(
        s,
        offers.MoveOffer(
            id=names[0], version=2, to=OfferState.PAUSED, actor="host", reason="test"
        ),
        NOW,
    ))  # fmt: skip
    wanted = [names[0]]
    changed(lambda s: offers.move_offer(
        s,
        offers.MoveOffer(
            id=names[0], version=3, to=OfferState.LISTED, actor="host", reason="test"
        ),
        NOW,
    ))  # fmt: skip


def test_a_claimed_offer_leaves_the_book(store: Store) -> None:
    world = World.make(store)
    with store.transaction() as session:
        name = list_offer(session, HOST)
    with store.reading() as session:
        before = search.book_version(session)
    with store.transaction() as session:
        command = claims.ClaimOffer(
            id=new_id(IdKind.LEASE),
            order=world.order,
            rank=0,
            offer=name,
            offer_version=1,
            actor=OPERATOR,
        )
        assert claims.claim(session, command, NOW) is claims.ClaimResult.CLAIMED
    with store.reading() as session:
        version = search.book_version(session)
        assert version > before
        assert len(search.load_book(session, version)) == 0


# --- hostile queries -----------------------------------------------------------------------------


def test_the_widest_query_over_a_large_book_ends_soon() -> None:
    rows = [
        Row(
            f"offr_{n:026d}", bytes([n % 256]) * 32, "sev-snp", f"cpu={n % 900}", f"g{n % 40}",
            1 + n % 8, n % 99, n % 5000, None, NOW + HOUR,
        )
        for n in range(20_000)
    ]  # fmt: skip
    book = book_of(rows)
    clauses = tuple(
        wire.WordClause(
            field=Word.CLASS,
            values=tuple(f"cpu={n}{m};" * 40 for m in range(wire.WORDS_MAX)),
            excludes=False,
        )
        for n in range(wire.CLAUSES_MAX)
    )
    began = time.monotonic()
    funnel = search.explain(book, query(clauses), NOW)
    assert time.monotonic() - began < 5
    assert funnel.nearest_miss is not None
