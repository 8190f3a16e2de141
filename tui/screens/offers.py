"""Offers: what fits a query, what it would cost, whether keys would be released, and why so few.

- A search follows the typing by `TYPING_SECONDS`; a page is asked for when its rows are seen.
- At most one search is on its way, and pages are asked for no more often than `ASK_MILLISECONDS`:
  a book that changes all the time is not chased.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input

from tui.commands import Kind, Search, Subject
from tui.facts import Fact, OfferRow
from tui.screens.window import Window, new_id
from tui.state import offer_words as words
from tui.state import offers
from tui.state.rows import Row, say
from tui.text import clean
from tui.widgets.funnel import FunnelPanel
from tui.widgets.panels import Panel, TooSmall
from tui.widgets.reading import Reading
from tui.widgets.virtual_table import Column, VirtualTable

TYPING_SECONDS: Final = 0.2
ASK_MILLISECONDS: Final = 250
OLD_MILLISECONDS: Final = 10_000
"""Rows older than this are asked for again when they are seen again."""
COLUMNS: Final = (
    Column(id="price", label="cr/h", width=8, right=True, sortable=True),
    Column(id="gpu", label="gpu", width=12, grows=True),
    Column(id="gpus", label="n", width=3, rank=3, right=True, sortable=True),
    Column(id="memory", label="GiB", width=5, rank=2, right=True, sortable=True),
    Column(id="platform", label="tee", width=9),
    Column(id="left", label="ends in", width=9, rank=1, right=True, sortable=True),
    Column(id="total", label="machine", width=9, rank=4, right=True, sortable=True),
    Column(id="keys", label="keys", width=22),
    Column(id="host", label="host", width=13, rank=5),
)


class OfferTable(VirtualTable):
    """Enter asks for a quote."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Quote", key_display="⏎"),
        Binding("space", "mark", "Mark to compare", show=False),
    ]


class OffersScreen(Window):
    """The book of offers."""

    MODE = "offers"
    HELP_TEXT = (
        "Offers that fit your search. Enter takes one into a new job; w says why so few fit.\n"
        "Search: gpu=H100 vram>=80GiB tee in (snp,tdx) price<=2.00 left>=12h"
    )
    DEFAULT_CSS = """
    OffersScreen #middle { height: 1fr; }
    OffersScreen #side { width: 56; border-left: solid $panel; display: none; }
    OffersScreen.-wide #side { display: block; }
    OffersScreen #strip { height: 4; }
    OffersScreen.-wide #strip { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("w", "why", "Why"),
        Binding("c", "compare", "Compare"),
        Binding("y", "copy", "Copy id"),
        Binding("Y", "show_id", "Show the id to select", show=False),
        Binding("r", "refresh", "Refresh", show=False),
        Binding("escape", "back", "Back to the table", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.state = offers.State()
        self._typing: Timer | None = None
        self._seen_rows = (0, 1)
        self._posted_at: int | None = None
        self._why = False
        self._draw_waits = False
        self._was_online = False

    def body(self) -> Iterable[Widget]:
        """Query, summary, table beside its panel, strip, funnel."""
        with Vertical(classes="room"):
            yield Input(
                placeholder="all offers; / to search: gpu=H100 price<=2.00",
                id="query",
                compact=True,
            )
            yield Panel(id="error")
            yield Panel(id="summary")
            with Horizontal(id="middle"):
                yield OfferTable(COLUMNS, marks=True, id="table")
                yield Panel(id="side")
            yield Panel(id="strip")
            yield FunnelPanel(id="funnel")
            yield Panel(id="miss")
        yield TooSmall()

    def on_mount(self) -> None:
        """The table has the keys."""
        super().on_mount()
        self.query_one("#side", Panel).pin()
        self.query_one("#strip", Panel).pin()
        self.table.focus()

    @property
    def table(self) -> OfferTable:
        """The table."""
        return self.query_one(OfferTable)

    @property
    def subject(self) -> Subject:
        """All offers; which are shown follows `Search`."""
        return Subject(kind=Kind.OFFERS)

    @property
    def offer(self) -> OfferRow | None:
        """The offer under the cursor."""
        return offers.offer_at(self.state, self.table.cursor)

    # --- facts ------------------------------------------------------------------------------------

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = offers.apply(self.state, fact, now)

    def on_screen_resume(self) -> None:
        """Seen; the first time everything is asked for, later what has become old."""
        super().on_screen_resume()
        if self._posted_at is None:
            self._search(self.state.query)
        elif self.now - (self.state.as_of or 0) > OLD_MILLISECONDS:
            self.action_refresh()

    def redraw(self) -> None:
        """Draw once for all facts that wait in line: a page brings hundreds of previews."""
        if not self._draw_waits:
            self._draw_waits = True
            self.call_later(self._redraw_now)

    def _redraw_now(self) -> None:
        self._draw_waits = False
        super().redraw()

    def draw(self) -> None:
        """Show the state, and ask for what is seen and not here."""
        came_back = self.shared.online and not self._was_online
        self._was_online = self.shared.online
        if came_back and self.state.asked_at is None and self._posted_at is not None:
            self.action_refresh()
        self._ask_for_rows()
        state, now, online = self.state, self.now, self.shared.browses
        scrolled = int(self.query_one("#query", Input).scroll_offset.x)
        self.query_one("#error", Panel).say(words.error_lines(state, scrolled=scrolled))
        summary = words.summary(state, now, online=online)
        self.query_one("#summary", Panel).say(summary)
        self.query_one(TooSmall).say(summary)
        self.table.show(state.total, self._row, stamp=self._stamp(now))
        name, descending = state.sort.lstrip("-"), state.sort.startswith("-")
        self.table.show_sort(name, descending=descending)
        self._draw_offer()
        empty = bool(state.pages) and not state.total and not state.old
        self.query_one("#middle").display = not (empty and state.funnel)
        if self.focused is None and not empty:
            self.table.focus()
        funnel = self.query_one(FunnelPanel)
        funnel.show(words.ladder(state.funnel), at=1)
        funnel.display = bool(state.funnel) and (self._why or empty)
        miss = words.miss_words(state.funnel)
        self.query_one("#miss", Panel).say([say(miss)] if miss and funnel.display else [])

    def _stamp(self, now: int) -> object:
        # What the cells say of time changes by the minute at most.
        state = self.state
        return (state.pages, state.old, state.previews, now // 60_000)

    def _row(self, index: int) -> Row | None:
        offer = offers.offer_at(self.state, index)
        return None if offer is None else words.row_of(self.state, offer, self.now)

    def _draw_offer(self) -> None:
        offer, now = self.offer, self.now
        has_rows = self.state.total > 0
        side = words.panel(self.state, offer, now) if has_rows else []
        strip = words.strip(self.state, offer, now) if has_rows else []
        self.query_one("#side", Panel).say(side)
        self.query_one("#strip", Panel).say(strip)

    # --- asking -----------------------------------------------------------------------------------

    def _search(self, query: str, *, sort: str | None = None, start: int = 0) -> None:
        """Ask for a page; of a query that is new, its funnel too."""
        state, now = self.state, self.now
        sort = state.sort if sort is None else sort
        explain = query != state.query or state.funnel is None
        name = new_id()
        self.state = offers.asked(state, query=query, sort=sort, command=name, now=now)
        self._posted_at = now
        self.ask(
            Search(
                id=name, query=query, sort=sort, start=start, rows=offers.PAGE_ROWS, explain=explain
            )
        )

    def _ask_for_rows(self) -> None:
        """(1) Nothing is on its way, nor was a moment ago. (2) What is seen is not here."""
        state, now = self.state, self.now
        if state.asked_at is not None or not self.shared.browses or state.old:  # (1)
            return
        if self._posted_at is not None and now - self._posted_at < ASK_MILLISECONDS:
            return
        start, count = self._seen_rows
        wanted = offers.pages_wanted(state, start, min(count, max(1, state.total - start)))
        if state.pages and wanted and start < state.total:  # (2)
            self._search(state.query, start=wanted[0])

    @on(VirtualTable.Wanted)
    def _wanted(self, message: VirtualTable.Wanted) -> None:
        self._seen_rows = (message.start, message.count)
        self._ask_for_rows()

    @on(VirtualTable.SortWanted)
    def _sort_wanted(self, message: VirtualTable.SortWanted) -> None:
        self._search(
            self.state.query, sort=("-" if message.descending else "") + message.column, start=0
        )
        self.table.move_to(0)
        self.redraw()

    @on(Input.Changed, "#query")
    def _typed(self) -> None:
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(TYPING_SECONDS, self._typed_enough)

    def _typed_enough(self) -> None:
        self._typing = None
        query = " ".join(self.query_one("#query", Input).value.split())
        if query != self.state.query and len(query) <= offers.QUERY_CHARACTERS_MAX:
            self._seen_rows = (0, 1)
            self.table.move_to(0)
            self._search(query)
            self.redraw()

    @on(Input.Submitted, "#query")
    def _entered(self) -> None:
        self._typed_enough()
        self.table.focus()

    @on(FunnelPanel.Taken)
    def _taken(self, message: FunnelPanel.Taken) -> None:
        if self.state.funnel is not None:
            self._set_query(words.loosened(self.state.query, self.state.funnel, message.index))

    def _set_query(self, query: str) -> None:
        query = clean(query, limit=offers.QUERY_CHARACTERS_MAX)
        self.query_one("#query", Input).value = query
        self._typed_enough()

    def open_link(self, word: str) -> None:
        """A query."""
        self._set_query(word)

    # --- rows and keys ----------------------------------------------------------------------------

    @on(VirtualTable.RowHighlighted)
    def _highlighted(self) -> None:
        self._draw_offer()

    @on(VirtualTable.RowMarked)
    def _marked(self, message: VirtualTable.RowMarked) -> None:
        offer = offers.offer_named(self.state, message.key)
        if offer is not None:
            self.state = offers.toggled(self.state, offer)
            self.table.set_marks(each.id for each in self.state.compared)

    @on(VirtualTable.RowSelected)
    def _selected(self, message: VirtualTable.RowSelected) -> None:
        """A quote: a new job that is to run on this offer."""
        if not self.shared.online:
            why = "keys are wanted for a quote: 1 Start makes or opens them"
            if not self.shared.browses:
                why = "no quote while the market does not answer"
            self.notify(why, markup=False)
            return
        from tui.screens.new_job import NewJobScreen

        self.app.push_screen(NewJobScreen(offer=offers.offer_named(self.state, message.key)))

    def action_search(self) -> None:
        """To the search field."""
        self.query_one("#query", Input).focus()

    def action_back(self) -> None:
        """Out of the field, out of the funnel."""
        self._why = False
        self.table.focus()
        self.redraw()

    def action_refresh(self) -> None:
        """Ask again for what is seen."""
        start = self.table.cursor // offers.PAGE_ROWS * offers.PAGE_ROWS
        self._search(self.state.query, start=start)
        self.redraw()

    def action_why(self) -> None:
        """The whole funnel, or away with it."""
        self._why = not self._why
        self.draw()
        funnel = self.query_one(FunnelPanel)
        (funnel if funnel.display else self.table).focus()

    def action_compare(self) -> None:
        """Marked offers side by side."""
        if len(self.state.compared) < 2:
            self.notify("mark two to four offers with the space bar, then c", markup=False)
            return
        self.app.push_screen(Reading("Compare", words.compare_lines(self.state, self.now)))

    def action_copy(self) -> None:
        """The offer's id."""
        if self.offer is not None:
            self.blindhost.copy(self.offer.id, what="offer id")

    def action_show_id(self) -> None:
        """The id alone on its line."""
        if self.offer is not None:
            self.app.push_screen(Reading("offer id", [say(self.offer.id)]))

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return words.plain(self.state, self.now, online=self.shared.browses)
