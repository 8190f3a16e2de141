"""Fields of a form: a label, what is typed, what it does; wanted and got under a wrong one."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from tui.state.job_fields import TEXT_CHARACTERS_MAX, Field
from tui.state.rows import Tone, Words, say
from tui.widgets.panels import STYLES, Panel


class FormField(Vertical):
    """One field. `Input.Changed` of its input comes with ``event.input.name`` as its name."""

    DEFAULT_CSS = """
    FormField { height: auto; }
    FormField Horizontal { height: 1; }
    FormField .label { width: 18; padding: 0 1; }
    FormField Input { width: 26; }
    FormField .hint { width: 1fr; padding: 0 1; color: $secondary;
        text-wrap: nowrap; text-overflow: ellipsis; }
    FormField Panel { padding: 0 0 0 18; }
    """

    def __init__(self, field: Field, text: str) -> None:
        super().__init__(id=f"field-{field.name}")
        self.field, self._text = field, text

    def compose(self) -> ComposeResult:
        """One line, and room for a fault under it."""
        with Horizontal():
            yield Static(Content(self.field.label), markup=False, classes="label")
            yield Input(
                self._text,
                name=self.field.name,
                max_length=TEXT_CHARACTERS_MAX,
                select_on_focus=False,
            )
            yield Static(Content(self.field.words), markup=False, classes="hint")
        yield Panel()

    def fault(self, words: str) -> None:
        """What is wrong; empty: nothing."""
        self.query_one(Panel).say([say(words, Tone.BAD)] if words else [])

    def focus_input(self) -> None:
        """The field has the keys."""
        self.query_one(Input).focus()


class StepBar(Widget):
    """The steps in one line; a click on one goes there."""

    DEFAULT_CSS = """
    StepBar { height: 1; width: 1fr; background: $surface; }
    """

    class Chosen(Message):
        """Somebody clicked on step `index`, from 0."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self) -> None:
        super().__init__()
        self._heads: tuple[Words, ...] = ()
        self._note = ""

    def show(self, heads: list[Words], note: str) -> None:
        """Draw again if a word of it differs."""
        if (tuple(heads), note) != (self._heads, self._note):
            self._heads, self._note = tuple(heads), note
            self.refresh()

    def render(self) -> Content:
        """Heads to the left, the note to the right where it fits."""
        parts = [Content.styled(each.text, STYLES[each.tone]) for each in self._heads]
        used = sum(len(each.text) for each in self._heads)
        room = self.size.width - used - len(self._note) - 1
        if room >= 1:
            parts.append(Content.styled(" " * room + self._note, "$secondary"))
        return Content("").join(parts)

    def on_click(self, event: object) -> None:
        """The step under the mouse."""
        x, end = getattr(event, "x", -1), 0
        for index, each in enumerate(self._heads):
            end += len(each.text)
            if 0 <= x < end:
                self.post_message(self.Chosen(index))
                return
