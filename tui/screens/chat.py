"""Base beside tuned: one prompt, two panes, each footed with the chip that it is sealed to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, cast

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Markdown, Static, TextArea

from tui.commands import Ask, Kind, StopTurn, Subject
from tui.facts import Fact
from tui.screens.window import Window, new_id
from tui.state import chat
from tui.state.chat import Reply, State, Turn

FLUSH_SECONDS: float = 0.1
"""Words that come are drawn ten times a second: a key never waits for them."""


class Prompt(TextArea):
    """Enter sends, ctrl+j begins a new line."""

    class Sent(Message):
        """A prompt is ready."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

        def __repr__(self) -> str:
            return "Sent(…)"

    def on_mount(self) -> None:
        """A cursor that blinks is traffic, and repaints a window that nobody touches."""
        self.cursor_blink = False

    async def _on_key(self, event: Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if text := self.text.strip():
                self.post_message(self.Sent(text))
                self.clear()
        elif event.key == "ctrl+j":
            event.stop()
            event.prevent_default()
            self.insert("\n")
        elif event.key == "escape":
            event.stop()
            event.prevent_default()
            self.screen.set_focus(None)
        else:
            await super()._on_key(event)


class TurnView(Vertical):
    """One prompt, and one model's reply to it."""

    DEFAULT_CSS = """
    TurnView { height: auto; }
    TurnView .prompt { color: $foreground 70%; text-style: italic; }
    TurnView Markdown { margin: 0; padding: 0; }
    """

    def __init__(self, turn: Turn, model: str) -> None:
        super().__init__()
        self.turn_id, self.model = turn.id, model
        self._prompt = turn.prompt
        self._shown = ""
        self._reply = Markdown("", open_links=False)
        self._raw = Static("", markup=False)
        self._end = Static("", markup=False, classes="warn")

    def compose(self) -> Iterable[Widget]:
        """Prompt, reply, how it ended."""
        yield Static(Content(f"› {self._prompt}"), markup=False, classes="prompt")
        yield self._reply
        yield self._raw
        yield self._end

    def on_mount(self) -> None:
        """What came before there was a widget for it is drawn now."""
        self.call_after_refresh(cast("ChatScreen", self.screen).redraw)

    def show(self, reply: Reply, ended: str, *, raw: bool) -> None:
        """What came since the last time; a reply that is over is drawn once more, whole."""
        self._raw.display, self._reply.display = raw, not raw
        if raw:
            self._raw.update(Content(reply.text))
        elif self._reply.is_mounted and reply.text != self._shown:  # else it would be overwritten
            if reply.text.startswith(self._shown) and reply.end is None:
                self._reply.append(reply.text[len(self._shown) :])
            else:
                self._reply.update(reply.text)
            self._shown = reply.text
        self._end.update(Content(ended))


class Pane(Vertical):
    """One side."""

    DEFAULT_CSS = """
    Pane { width: 1fr; height: 1fr; border: round $panel; padding: 0 1; }
    Pane .head { text-style: bold; height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Pane .foot { color: $foreground 70%; height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Pane VerticalScroll { height: 1fr; }
    """

    def compose(self) -> Iterable[Widget]:
        """Head, turns, foot."""
        yield Static("", markup=False, classes="head")
        yield VerticalScroll()
        yield Static("", markup=False, classes="foot")

    def on_mount(self) -> None:
        """The end stays in sight, unless somebody scrolls up."""
        self.query_one(VerticalScroll).anchor()

    def show(self, state: State, side: int, now: int, *, raw: bool) -> None:
        """Draw one side's turns, as far as they have come."""
        model = chat.panes(state)[side]
        self.query_one(".head", Static).update(Content(chat.head_words(state, model, side)))
        self.query_one(".foot", Static).update(Content(chat.seal_words(state, model, now)))
        scroll = self.query_one(VerticalScroll)
        wanted = [each for each in state.turns if each.reply(model) is not None]
        views = {each.turn_id: each for each in scroll.query(TurnView) if each.model == model}
        stale = [each for each in scroll.query(TurnView) if each.model != model]
        names = {each.id for each in wanted}
        for view in [*stale, *(v for name, v in views.items() if name not in names)]:
            view.remove()
        for turn in wanted:
            reply = turn.reply(model)
            assert reply is not None
            known = views.get(turn.id)
            view = TurnView(turn, model) if known is None else known
            if known is None:
                scroll.mount(view)
            view.show(reply, chat.end_words(reply.end, turn.asked_at, now), raw=raw)


class ChatScreen(Window):
    """Chat."""

    MODE = "chat"
    HELP_TEXT = (
        "One prompt for one model or two side by side. Words are sealed here, to the chip that "
        "each pane names, and nothing is sent before it is verified."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "write", "Send", show=True, key_display="⏎"),
        Binding("escape", "stop", "Stop", show=True),
        Binding("ctrl+s", "sides", "One/two", show=True),
        Binding("ctrl+b", "blind", "Blind test"),
        Binding("f2", "vote(0)", "Prefer A", show=False),
        Binding("f3", "vote(1)", "Prefer B", show=False),
        Binding("ctrl+n", "next_model", "Next model"),
        Binding("ctrl+t", "trust", "Trust"),
        Binding("ctrl+r", "raw", "Raw", show=False),
        Binding("ctrl+l", "blank", "Blank"),
        Binding("tab", "swap", "Other pane", show=False),
    ]
    DEFAULT_CSS = """
    ChatScreen #empty { padding: 1 2; height: 1fr; }
    ChatScreen Prompt { height: 3; border: none; border-top: solid $panel; }
    ChatScreen Prompt:focus { border: none; border-top: solid $primary; }
    ChatScreen #panes { height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.raw = False
        self._front = 0
        self._dirty = False
        self._wanted_model = ""

    def body(self) -> Iterable[Widget]:
        """Panes over a prompt."""
        yield Static("", markup=False, id="empty")
        yield Horizontal(Pane(), Pane(), id="panes")
        yield Prompt(id="prompt", show_line_numbers=False, highlight_cursor_line=False)

    def on_mount(self) -> None:
        """Words are drawn in beats."""
        super().on_mount()
        self.set_interval(FLUSH_SECONDS, self._flush)
        self.query_one(Prompt).focus()

    @property
    def subject(self) -> Subject:
        """Who is served."""
        return Subject(kind=Kind.CHAT)

    def open_link(self, word: str) -> None:
        """Speak to this model, by its name or the beginning of it."""
        self._wanted_model = word
        self._choose_wanted()

    def _choose_wanted(self) -> None:
        wanted = self._wanted_model
        found = [
            each.model
            for each in self.state.models
            if each.model.startswith(wanted) or each.job.startswith(wanted)
        ]
        if self._wanted_model and found:
            rest = tuple(each for each in self.state.chosen if each != found[0])
            self.state = chat.choose(self.state, (*rest[:1], found[0]))
            self._wanted_model = ""

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        before = self.state
        self.state = chat.apply(self.state, fact, now)
        self._choose_wanted()
        self._dirty |= self.state is not before

    def redraw(self) -> None:
        """In beats alone: replies come faster than anyone reads."""
        self._dirty = True

    def _flush(self) -> None:
        if self._dirty:
            self._dirty = False
            super().redraw()

    def draw(self) -> None:
        """Panes, or why there are none."""
        sides = chat.panes(self.state)
        empty = self.query_one("#empty", Static)
        empty.display = not sides
        if not sides:
            empty.update(Content("\n".join(chat.empty_words(self.state))))
        narrow = self.size.width < 100
        for side, pane in enumerate(self.query(Pane)):
            front = min(self._front, len(sides) - 1)
            pane.display = side < len(sides) and (not narrow or side == front)
            if side < len(sides):
                pane.show(self.state, side, self.now, raw=self.raw)

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return chat.plain(self.state, self.now)

    # --- what a person does -----------------------------------------------------------------------

    @on(Prompt.Sent)
    def _sent(self, message: Prompt.Sent) -> None:
        if not self.state.chosen:
            self.notify("nobody is served now", markup=False, severity="warning")
            return
        if self.state.newest is not None and self.state.newest.running:
            self.query_one(Prompt).text = message.text
            self.notify("a reply is still coming: Esc stops it", markup=False)
            return
        turn = new_id()
        asks = [
            Ask(
                id=new_id(),
                turn=turn,
                model=each,
                messages=chat.messages(self.state, each, message.text),
                temperature="0",
                tokens_max=None,
            )
            for each in self.state.chosen
        ]
        self.state = chat.say(self.state, turn, message.text, self.now)
        for each in asks:
            self.ask(each)
        self.redraw()

    def action_write(self) -> None:
        """To the prompt."""
        self.query_one(Prompt).focus()

    def action_stop(self) -> None:
        """Stop the replies that go on."""
        turn = self.state.newest
        if turn is not None and turn.running:
            self.ask(StopTurn(id=new_id(), turn=turn.id))

    def action_sides(self) -> None:
        """One pane, or base beside tuned."""
        if len(self.state.chosen) > 1:
            self.state = chat.choose(self.state, self.state.chosen[1:])
        else:
            others = (
                each.model for each in self.state.models if each.model not in self.state.chosen
            )
            more = next(others, None)
            if more is not None:
                self.state = chat.choose(self.state, (more, *self.state.chosen))
        self.redraw()

    def action_next_model(self) -> None:
        """Another model in the last pane."""
        names = [each.model for each in self.state.models]
        if not self.state.chosen or len(names) < 2:
            return
        place = (names.index(self.state.chosen[-1]) + 1) % len(names)
        if names[place] in self.state.chosen[:-1]:
            place = (place + 1) % len(names)
        self.state = chat.choose(self.state, (*self.state.chosen[:-1], names[place]))
        self.redraw()

    def action_blind(self) -> None:
        """Hide who is who, until one is preferred."""
        self.state = dataclasses.replace(self.state, blind=not self.state.blind)
        self.redraw()

    def action_vote(self, side: int) -> None:
        """Prefer one, and see who it was."""
        if self.state.blind:
            self.state = chat.vote(self.state, side)
            self.redraw()

    def action_trust(self) -> None:
        """On what evidence this pane's enclave is believed."""
        head = self.state.heads.get(self.state.chosen[-1]) if self.state.chosen else None
        if head is not None and head.job:
            self.blindhost.open(("trust", head.job))

    def action_raw(self) -> None:
        """The words as they came."""
        self.raw = not self.raw
        self.redraw()

    def action_blank(self) -> None:
        """Forget all that was said here."""
        self.state = chat.blank(self.state)
        self.redraw()

    def action_swap(self) -> None:
        """The other pane, where only one fits."""
        self._front = 1 - self._front
        self.redraw()
