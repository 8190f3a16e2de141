"""What is left, what is held, and why each charge: every line opens to a signed receipt."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from tui.commands import Kind, MoreEntries, StatementForm, Subject, WriteStatement
from tui.facts import Entry, Fact
from tui.screens.window import Window, new_id
from tui.state import money
from tui.state.money import State
from tui.text import clock, left, short
from tui.widgets.virtual_table import Column, Row, VirtualTable

COLUMNS = (
    Column(id="when", label="when", width=8),
    Column(id="what", label="what", width=24, grows=True),
    Column(id="amount", label="amount", width=12, right=True),
    Column(id="balance", label="balance", width=13, rank=1, right=True),
    Column(id="id", label="id", width=31, rank=2),
)


class MoneyScreen(Window):
    """Money."""

    MODE = "money"
    HELP_TEXT = (
        "Every charge opens to a receipt that an enclave signed; whether its signature holds is "
        "computed here. Sums are microcredits; what is shown is rounded against you."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "receipts", "Receipts"),
        Binding("s", "statement", "Statement"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("y", "copy_id", "Copy id"),
        Binding("m", "more", "Older"),
        Binding("plus", "pay_in", "Pay in"),
    ]
    DEFAULT_CSS = """
    MoneyScreen #empty { height: 1fr; padding: 1 1; }
    MoneyScreen #head { height: auto; padding: 0 1; }
    MoneyScreen #said { height: auto; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self._drawn: tuple[tuple[Entry, ...], bool, str] | None = None

    def body(self) -> Iterable[Widget]:
        """Balance, filter, lines, what was said last."""
        yield Static("", markup=False, id="head")
        yield Input(placeholder="filter: words of a line, or a job", id="filter")
        yield Static("", markup=False, id="empty")
        yield VirtualTable(COLUMNS, id="lines")
        yield Static("", markup=False, id="said")

    def on_mount(self) -> None:
        """The list has the keys."""
        super().on_mount()
        self.query_one("#filter").display = False
        self.query_one("#lines").focus()

    @property
    def subject(self) -> Subject:
        """Balance, lines, receipts."""
        return Subject(kind=Kind.MONEY)

    def open_link(self, word: str) -> None:
        """Filter by what a link names."""
        self.state = dataclasses.replace(self.state, filter=word)
        self.redraw()

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = money.apply(self.state, fact, now)

    def draw(self) -> None:
        """Balance; and the lines, if they differ."""
        balance = self.shared.balance
        head = [money.balance_words(balance)]
        if low := money.low_words(balance):
            head.append(low)
        if not self.shared.online and balance is not None:
            head.append(f"offline: as of {clock(balance.as_of, self.zone)}")
        self.query_one("#head", Static).update(Content("\n".join(head)))
        self.query_one("#said", Static).update(Content(self.state.said))
        lines = self.state.lines
        drawn = (lines, self.state.heard, self.state.filter)
        if drawn != self._drawn:
            self._drawn = drawn
            self._show(lines)

    def _show(self, lines: tuple[Entry, ...]) -> None:
        table, empty = self.query_one(VirtualTable), self.query_one("#empty", Static)
        table.display, empty.display = bool(lines), not lines
        empty.update(Content(self._empty_words()))
        at_top = table.cursor == 0
        table.show(len(lines), lambda at: self._row(lines[at]), stamp=lines)
        if at_top:  # what is newest stays under a cursor that nobody moved
            table.move_to(0)

    def _empty_words(self) -> str:
        if not self.state.heard:
            return "asking the market for the statement …"
        if self.state.filter:
            return f"no line fits {self.state.filter!r}"
        return "no line yet: money that comes in, holds and charges stand here"

    def _row(self, entry: Entry) -> Row:
        of = f" {short(entry.job)}" if entry.job else ""
        cells = (
            clock(entry.at, self.zone),
            f"{entry.words or entry.kind}{of}",
            money.amount_words(entry),
            left(entry.balance_after),
            entry.transfer,
        )
        return Row(key=entry.key, cells=cells)

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return money.plain(self.state, self.shared.balance)

    # --- what a person does -----------------------------------------------------------------------

    def _chosen(self) -> Entry | None:
        table = self.query_one(VirtualTable)
        return self.state.entries.get(table.key_at(table.cursor))

    @on(VirtualTable.RowSelected)
    def _selected(self) -> None:
        self.action_open_line()

    def action_open_line(self) -> None:
        """A line whole, with the receipts of its job."""
        entry = self._chosen()
        if entry is None:
            return
        lines = [
            money.entry_words(entry),
            f"account {entry.account}, line {entry.number}, transfer {entry.transfer}",
            f"exactly {entry.amount:,} microcredits; after it {entry.balance_after:,}",
        ]
        for receipt in self.state.receipts_of(entry.job) if entry.job else ():
            lines += ["", *money.receipt_words(receipt)]
        self.app.push_screen(Paper("a line of the statement", lines))

    def action_receipts(self) -> None:
        """All receipts, with what was found of each signature."""
        entry = self._chosen()
        of = entry.job if entry is not None else ""
        lines: list[str] = []
        for receipt in self.state.receipts_of(of) or self.state.receipts_of(""):
            lines += [*money.receipt_words(receipt), ""]
        self.app.push_screen(Paper("receipts, verified here", lines or ["no receipt yet"]))

    def action_statement(self) -> None:
        """Write this month's statement, as CSV or beancount."""
        month = dt.datetime.fromtimestamp(self.now / 1000, dt.UTC).strftime("%Y-%m")
        self.app.push_screen(StatementPanel(month), self._write)

    def _write(self, asked: tuple[str, StatementForm] | None) -> None:
        if asked is not None:
            month, form = asked
            folder = self.blindhost.home or Path.cwd()
            path = str(folder / f"statement-{month}.{form.value}")
            command = WriteStatement(id=new_id(), month=month, form=form, path=path)
            self.state = money.asked(self.state, command.id)
            self.ask(command)

    def action_filter(self) -> None:
        """Show lines with these words alone."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self.state.filter
        field.focus()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self.state = dataclasses.replace(self.state, filter=event.value)
        self.redraw()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#filter").display = bool(self.state.filter)
        self.query_one("#lines").focus()

    def key_escape(self) -> None:
        """Leave the filter."""
        if self.focused is self.query_one("#filter"):
            self.state = dataclasses.replace(self.state, filter="")
            self.query_one("#filter").display = False
            self.query_one("#lines").focus()
            self.redraw()

    def action_copy_id(self) -> None:
        """The transfer's id."""
        if (entry := self._chosen()) is not None:
            self.blindhost.copy(entry.transfer, what="the transfer's id")

    def action_more(self) -> None:
        """Older lines."""
        numbers = [each.number for each in self.state.entries.values()]
        if numbers and min(numbers) > 1:
            self.ask(MoreEntries(id=new_id(), before=min(numbers)))

    def action_pay_in(self) -> None:
        """How money comes in: this market's operator credits it."""
        identity = "" if self.shared.setup is None else self.shared.setup.identity
        lines = [
            "Money comes in by this market's operator, who credits an identity:",
            "  blindhost-market credit --identity IDENTITY --microcredits N",
            f"yours is {identity or 'not made yet: see Start'}",
            "1 credit is 1,000,000 microcredits.",
        ]
        self.app.push_screen(Paper("how to pay in", lines))


class Paper(ModalScreen[None]):
    """Lines to read, to scroll, and to select."""

    DEFAULT_CSS = """
    Paper { align: center middle; }
    Paper Vertical { width: 90%; height: 80%; border: round $primary; background: $surface; }
    Paper #text { height: auto; padding: 0 1; }
    Paper VerticalScroll { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "dismiss", "Close")]

    def __init__(self, title: str, lines: Iterable[str]) -> None:
        super().__init__()
        self._title, self._lines = title, list(lines)

    def compose(self) -> ComposeResult:
        """A frame with a title, and the lines."""
        from textual.containers import VerticalScroll

        with Vertical() as frame:
            frame.border_title = Content(self._title).markup
            with VerticalScroll():
                yield Static(Content("\n".join(self._lines)), markup=False, id="text")
        yield Footer(show_command_palette=False)


class StatementPanel(ModalScreen[tuple[str, StatementForm] | None]):
    """Which month, in which form."""

    DEFAULT_CSS = """
    StatementPanel { align: center middle; }
    StatementPanel Vertical { width: 60; height: auto; border: round $primary;
        background: $surface; padding: 0 1; }
    StatementPanel OptionList, StatementPanel OptionList:focus { height: auto; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]

    def __init__(self, month: str) -> None:
        super().__init__()
        self._month = month

    def compose(self) -> ComposeResult:
        """A month, and two forms."""
        with Vertical():
            yield Static("Month, as 2026-11; then a form. The file is written to the home.")
            yield Input(value=self._month, max_length=7, restrict=r"[0-9-]*")
            yield OptionList(
                *(Option(each.value, id=each.value) for each in StatementForm), markup=False
            )
        yield Footer(show_command_palette=False)

    @on(Input.Submitted)
    def _month_done(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def _form(self, event: OptionList.OptionSelected) -> None:
        month = self.query_one(Input).value
        try:
            dt.datetime.strptime(month, "%Y-%m")  # noqa: DTZ007 - its shape alone
        except ValueError:
            self.notify("a month is wanted, as 2026-11", markup=False, severity="warning")
            return
        self.dismiss((month, StatementForm(event.option.id or "csv")))
