"""Keys and consents: who was given which keys, what waits for a yes, and the keystore itself.

- A consent is answered on the panel that shows its sentences, and nowhere else.
- Where one's own release log does not hold, its words fill the screen, and no key of it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, OptionList

from tui.commands import Answer, BackUp, Command, Export, Kind, LockKeys, RotateEpoch, Subject
from tui.facts import Consent, Fact, ReleaseEntry
from tui.screens.registry import open_link
from tui.screens.window import Window, new_id
from tui.state import keys
from tui.state.rows import Row, say
from tui.text import short, span
from tui.widgets.asking import Choose
from tui.widgets.confirm import Confirm, ask_first
from tui.widgets.panels import Panel, TooSmall
from tui.widgets.passphrase_panel import UnlockPanel
from tui.widgets.path_panel import PathPanel
from tui.widgets.pick_list import PickList
from tui.widgets.reading import Reading
from tui.widgets.virtual_table import Column, VirtualTable

RELEASES: Final = (
    Column(id="number", label="entry", width=6, right=True),
    Column(id="at", label="when", width=14, rank=1, right=True),
    Column(id="artifact", label="artifact", width=9, rank=2),
    Column(id="job", label="job", width=15),
    Column(id="generation", label="gen", width=3, rank=2, right=True),
    Column(id="chip", label="chip", width=11),
    Column(id="policy", label="policy", width=9, rank=4),
    Column(id="words", label="verdict", width=16, grows=True),
    Column(id="whose", label="whose log", width=15, rank=3),
)
CHIPS: Final = (
    Column(id="chip", label="chip", width=26, grows=True),
    Column(id="artifacts", label="artifacts", width=9, right=True),
    Column(id="jobs", label="jobs", width=6, right=True),
    Column(id="entries", label="releases", width=8, right=True),
    Column(id="last", label="last", width=14, right=True),
)
LINK_MILLISECONDS: Final = 5000
"""How long a link waits for the consent that it names."""
OWN: Final = frozenset(
    {
        "by_chip",
        "consent",
        "refuse",
        "export",
        "trust",
        "copy",
        "lock",
        "back_up",
        "rotate",
        "show_id",
    }
)
"""Actions that end where the chain is broken."""


class ConsentList(PickList):
    """Enter reads one."""

    DEFAULT_CSS = """
    ConsentList { max-height: 6; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Read", key_display="⏎"),
    ]


class ReleaseTable(VirtualTable):
    """Enter reads one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Read", key_display="⏎"),
    ]


class KeysScreen(Window):
    """Consents, releases, keys."""

    MODE = "keys"
    HELP_TEXT = (
        "Who was given which of your keys, and who waits for your yes. Read before you answer.\n"
        "m: what a chip ever opened, for the day of an advisory against it."
    )
    DEFAULT_CSS = """
    KeysScreen #releases, KeysScreen #chips { min-height: 4; }
    KeysScreen #store { height: 1; padding: 0 1; }
    KeysScreen Button { margin-right: 1; width: 12; }
    KeysScreen #broken { padding: 1 2; display: none; }
    KeysScreen.-broken #broken { display: block; height: 1fr; text-style: reverse; }
    KeysScreen.-broken .room { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "consent", "Consent…"),
        Binding("n", "refuse", "Refuse…"),
        Binding("m", "by_chip", "By chip"),
        Binding("x", "export", "Export"),
        Binding("t", "trust", "Trust"),
        Binding("y", "copy", "Copy id"),
        Binding("Y", "show_id", "Show the id to select", show=False),
        Binding("l", "lock", "Lock…", show=False),
        Binding("b", "back_up", "Back up…", show=False),
        Binding("R", "rotate", "Rotate…", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.state = keys.State()
        self._listed: tuple[ReleaseEntry, ...] = ()
        self._chips: tuple[keys.Chip, ...] = ()
        self._of: object = None
        self._by_chip = False
        self._since = 0
        self._draw_waits = False
        self._link, self._link_at = "", 0

    def body(self) -> Iterable[Widget]:
        """Consents on top, releases, brokers and keys below."""
        yield Panel(id="broken")
        with Vertical(classes="room"):
            yield Panel(id="consents-head")
            yield ConsentList(id="consents")
            yield Panel(id="releases-head")
            yield ReleaseTable(RELEASES, id="releases")
            yield ReleaseTable(CHIPS, id="chips")
            yield Panel(id="brokers")
            yield Panel(id="keys")
            with Horizontal(id="store"):
                yield Button(Content("Lock…"), id="lock")
                yield Button(Content("Back up…"), id="back-up")
                yield Button(Content("Rotate…"), id="rotate")
            yield Panel(id="news")
        yield TooSmall()

    def on_mount(self) -> None:
        """The releases have the keys."""
        super().on_mount()
        self._since = self.now
        self.query_one("#broken", Panel).pin()
        self.query_one("#chips").display = False
        self.query_one("#releases").focus()

    @property
    def subject(self) -> Subject:
        """Keys, brokers, releases of all jobs, consents."""
        return Subject(kind=Kind.KEYS)

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = keys.apply(self.state, fact, now)

    def redraw(self) -> None:
        """Draw once for all facts that wait in line: a log has thousands of entries."""
        if not self._draw_waits:
            self._draw_waits = True
            self.call_later(self._redraw_now)

    def _redraw_now(self) -> None:
        self._draw_waits = False
        super().redraw()

    def draw(self) -> None:
        """Show the state."""
        state, now = self.state, self.now
        self.query_one("#broken", Panel).say(keys.broken_lines(state))
        if state.is_broken:
            if not self.has_class("-broken"):
                self.add_class("-broken")
                self.set_focus(None)
                self.refresh_bindings()
            return
        if self._of is not state.releases:
            self._of, self._listed = state.releases, keys.listed(state)
            self._chips = keys.chips(self._listed)
        head = keys.consents_head(state)
        self.query_one("#consents-head", Panel).say(head)
        consents = self.query_one(ConsentList)
        consents.show(keys.consent_line(each) for each in keys.consents(state))
        consents.display = bool(state.consents)
        if self._link:
            self._follow_link()
        loading = self._loading(now)
        releases = keys.releases_head(state, by_chip=self._by_chip, loading=loading)
        self.query_one("#releases-head", Panel).say(releases)
        stamp = (self._listed, now // 60_000)
        self.query_one("#releases", ReleaseTable).show(
            len(self._listed), self._release_row, stamp=stamp
        )
        self.query_one("#chips", ReleaseTable).show(len(self._chips), self._chip_row, stamp=stamp)
        self.query_one("#brokers", Panel).say(keys.broker_lines(state, now))
        self.query_one("#keys", Panel).say(keys.keys_lines(state, locked=self._locked))
        self.query_one("#news", Panel).say(keys.news(state, now))
        self.query_one(TooSmall).say([*head, *keys.keys_lines(state, locked=self._locked)])
        label = "Unlock…" if self._locked else "Lock…"
        lock = self.query_one("#lock", Button)
        if str(lock.label) != label:
            lock.label = Content(label)

    def _loading(self, now: int) -> str:
        if self.state.keys is not None:
            return "" if self.shared.online else "none known here; the market does not answer"
        since = span(max(0, now - self._since))
        return f"reading keys and the release log, {since}; it ends with the first facts"

    @property
    def _locked(self) -> bool:
        setup, store = self.shared.setup, self.state.keys
        return (setup is not None and setup.locked) or (store is not None and store.locked)

    def _release_row(self, index: int) -> Row:
        return keys.release_row(self._listed[index], self.now)

    def _chip_row(self, index: int) -> Row:
        return keys.chip_row(self._chips[index], self.now)

    # --- what the cursor is on --------------------------------------------------------------------

    @property
    def consent(self) -> Consent | None:
        """The consent under the cursor."""
        at, found = self.query_one(ConsentList).highlighted, keys.consents(self.state)
        return found[at] if at is not None and at < len(found) else None

    @property
    def release(self) -> ReleaseEntry | None:
        """The release under the cursor."""
        at = self.query_one("#releases", ReleaseTable).cursor
        return self._listed[at] if at < len(self._listed) and not self._by_chip else None

    @on(OptionList.OptionSelected, "#consents")
    def _read_consent(self) -> None:
        if self.consent is not None:
            title = f"consent {short(self.consent.id)}"
            self.app.push_screen(Reading(title, keys.consent_sentences(self.consent)))

    @on(VirtualTable.RowSelected)
    def _read_row(self, message: VirtualTable.RowSelected) -> None:
        if message.table.id == "chips":
            chip = self._chips[message.index]
            lines = keys.chip_lines(chip, self.now)
            self.app.push_screen(Reading("what this chip ever opened", lines))
        elif self.release is not None:
            words = keys.entry_words(self.release, self.now)
            self.app.push_screen(Reading("a release", [say(words)]))

    # --- keys -------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where the chain is broken, no key of this screen works."""
        if action in OWN and self.state.is_broken:
            return False
        return super().check_action(action, parameters)

    def action_by_chip(self) -> None:
        """Entry by entry, or chip by chip."""
        self._by_chip = not self._by_chip
        releases, chips = self.query_one("#releases"), self.query_one("#chips")
        releases.display, chips.display = not self._by_chip, self._by_chip
        (chips if self._by_chip else releases).focus()
        self.redraw()

    def action_consent(self) -> None:
        """Read, then yes or no; No stands first."""
        self._answer(yes=True)

    def action_refuse(self) -> None:
        """Read, then refuse or not."""
        self._answer(yes=False)

    def _answer(self, *, yes: bool) -> None:
        consent = self.consent
        if consent is None:
            self.notify("no consent is asked for", markup=False)
            return
        if fault := keys.answer_fault(consent):
            self.notify(fault, markup=False, severity="warning")
            return
        does = "Allow" if yes else "Refuse"
        effect = "what is opened can't be taken back" if yes else "it stays sealed"
        panel = Confirm(
            f"{does} {consent.what}, to {short(consent.to)}: {effect}.",
            yes="Consent" if yes else "Refuse",
            lines=keys.consent_sentences(consent),
        )

        def answer() -> None:
            now = self.state.consents.get(consent.id)
            if now is None or keys.consent_sentences(now) != keys.consent_sentences(consent):
                words = "it says something else by now: not answered; read it again"
                self.notify(words, markup=False, severity="warning")
                return
            command = Answer(id=new_id(), consent=consent.id, yes=yes)
            self._post(command, f"consent {consent.id}: your answer goes out")

        ask_first(self.app, panel, answer)

    def _post(self, command: Command, words: str) -> None:
        if self.state.is_broken:  # a panel may have stood open while the chain broke
            return
        self.state = keys.asked(self.state, command=command.id, words=words, now=self.now)
        self.ask(command)
        self.redraw()

    @on(Button.Pressed, "#lock")
    def action_lock(self) -> None:
        """Forget the open keystore; or open it."""
        if self._locked:
            self.app.push_screen(UnlockPanel(), self._unlocking)
            return
        sentence = "Lock the keys: nothing is signed or released here until they are opened again."
        ask_first(self.app, Confirm(sentence, yes="Lock"), self._lock)

    def _lock(self) -> None:
        self._post(LockKeys(id=new_id()), "keys: locking")

    def _unlocking(self, command: str | None) -> None:
        if command:
            self.state = keys.asked(
                self.state, command=command, words="keys: opening", now=self.now
            )
            self.redraw()

    @on(Button.Pressed, "#back-up")
    def action_back_up(self) -> None:
        """An encrypted copy of keystore and release log, into a file."""
        sentence = "Write an encrypted copy of the keystore and the release log to this file:"
        self._ask_path(sentence, "blindhost-backup", self._back_up)

    def _back_up(self, path: str) -> None:
        self._post(BackUp(id=new_id(), path=path), "writing a backup")

    def _ask_path(self, sentence: str, path: str, act: Callable[[str], None]) -> None:
        def named(chosen: str | None) -> None:
            if chosen:
                act(chosen)

        self.app.push_screen(PathPanel(sentence, path), named)

    @on(Button.Pressed, "#rotate")
    def action_rotate(self) -> None:
        """A new epoch of a lineage: which, what it does, and the word typed."""
        lineages = self.state.keys.lineages if self.state.keys is not None else ()
        if not lineages or self._locked:
            words = "the keys are locked" if lineages else "there is no lineage to rotate"
            self.notify(words, markup=False)
            return

        def chosen(index: int | None) -> None:
            if index is not None and index < len(lineages):
                self._rotate(lineages[index])

        panel = Choose("Which lineage begins a new epoch?", [say(each) for each in lineages])
        self.app.push_screen(panel, chosen)

    def _rotate(self, lineage: str) -> None:
        panel = Confirm(
            f"Begin a new epoch of: {lineage}.", yes="Rotate", typed="rotate", lines=keys.ROTATION
        )

        def rotate() -> None:
            self._post(RotateEpoch(id=new_id(), lineage=lineage), "keys: a new epoch")

        ask_first(self.app, panel, rotate)

    def action_export(self) -> None:
        """The transcript of the release under the cursor."""
        entry = self.release
        if entry is None:
            self.notify("no release is under the cursor", markup=False)
            return

        def export(path: str) -> None:
            command = Export(id=new_id(), job=entry.job, generation=entry.generation, path=path)
            self._post(command, "writing the transcript")

        sentence = f"Write the transcript of generation {entry.generation}, to open offline, to:"
        self._ask_path(
            sentence, f"{short(entry.job, 16).rstrip('…')}-{entry.generation}.json", export
        )

    def action_trust(self) -> None:
        """On what evidence this one was released."""
        if self.release is not None:
            open_link(self.blindhost, ("trust", self.release.job))

    def _named(self) -> str:
        if isinstance(self.focused, ConsentList):
            return "" if self.consent is None else self.consent.id
        if self._by_chip:
            at = self.query_one("#chips", ReleaseTable).cursor
            return self._chips[at].chip if at < len(self._chips) else ""
        return "" if self.release is None else self.release.job

    def action_copy(self) -> None:
        """The id of a consent, a chip, or a release's job."""
        if name := self._named():
            self.blindhost.copy(name, what="id")

    def action_show_id(self) -> None:
        """The id alone on its line."""
        if name := self._named():
            self.app.push_screen(Reading("id", [say(name)]))

    def open_link(self, word: str) -> None:
        """A consent, by its id or the beginning of it; it may come later than the link."""
        self._link, self._link_at = word, self.now
        self.redraw()

    def _follow_link(self) -> None:
        found = keys.consents(self.state)
        at = next((at for at, each in enumerate(found) if each.id.startswith(self._link)), None)
        if at is not None:
            consents = self.query_one(ConsentList)
            consents.highlighted = at
            consents.focus()
        elif self.now - self._link_at < LINK_MILLISECONDS:
            return
        else:
            near = ", ".join(short(each.id) for each in found[:3]) or "none"
            self.notify(f"no consent {short(self._link)}; there are: {near}", markup=False)
        self._link = ""

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return keys.plain(
            self.state, self.now, locked=self._locked, loading=self._loading(self.now)
        )
