"""New job: model, data, recipe, money, and one page to sign.

- Every change is kept as a draft of ids and numbers; a path is not, and no word of content ever is.
- A quote is asked for once typing has paused, and counts for the draft that it was made for.
- The id of a signing is kept before it is posted: after a crash the page says that it was signed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Button, Input, OptionList, Static

from tui.commands import CheckDataset, SealDataset, StopSealing, Submit, WantQuote
from tui.drafts import DraftsPort, KeptDraft
from tui.facts import Fact, OfferRow
from tui.screens.registry import open_link
from tui.screens.window import Window, new_id
from tui.state import new_job as job
from tui.state import new_job_words as words
from tui.state.job_fields import DEFAULTS, MONEY, RECIPE
from tui.state.new_job import STEPS, Step
from tui.state.rows import say
from tui.text import ago
from tui.widgets.confirm import Confirm, ask_first
from tui.widgets.entry import Entry
from tui.widgets.form import FormField, StepBar
from tui.widgets.panels import Panel, TooSmall
from tui.widgets.pick_list import PickList
from tui.widgets.reading import Reading

TYPING_SECONDS: Final = 0.3


class NewJobScreen(Window):
    """Five steps to a signature."""

    MODE = "jobs"
    AUTO_FOCUS = ""  # each step says what has the keys
    HELP_TEXT = (
        "A new fine-tune in five steps; ^s goes on, or to what is wrong; Escape goes back.\n"
        "Your file is checked and sealed here: nothing of it leaves before it is sealed."
    )
    DEFAULT_CSS = """
    NewJobScreen .pane { height: 1fr; display: none; }
    NewJobScreen .pane.-here { display: block; }
    NewJobScreen #models, NewJobScreen #sealed { max-height: 10; }
    NewJobScreen #file-line { height: 1; }
    NewJobScreen #file-line Static { width: 7; padding: 0 1; }
    NewJobScreen #file-line Input { width: 1fr; }
    NewJobScreen .buttons { height: 1; padding: 0 1; }
    NewJobScreen Button { margin-right: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "next", "Next", key_display="^s"),
        Binding("escape", "back", "Back"),
        Binding("r", "quote", "Quote"),
        Binding("x", "json", "JSON"),
        Binding("h", "heldout", "Held-out", show=False),
        Binding("y", "copy", "Copy", show=False),
    ]

    def __init__(self, *, offer: OfferRow | None = None, step: str = "") -> None:
        super().__init__()
        self._offer, self._first_step = offer, step
        self.state = job.State()
        self._typing: Timer | None = None
        self._tried: set[Step] = set()
        self._saved_at: int | None = None
        self._unsaved = ""

    # --- widgets ----------------------------------------------------------------------------------

    def body(self) -> Iterable[Widget]:
        """Steps, a pane for each, the quote."""
        self.state = job.begun(kept=self._load(), offer=self._offer, step=self._first_step)
        fields = self.state.fields
        with Vertical(classes="room"):
            yield StepBar()
            with Vertical(id="pane-model", classes="pane"):
                yield PickList(id="models")
                yield Panel(id="model-notes")
            with Vertical(id="pane-data", classes="pane"):
                yield PickList(id="sealed")
                with Horizontal(id="file-line"):
                    yield Static(Content("file"), markup=False)
                    yield Entry(placeholder="a JSONL file; Enter checks every line", id="path")
                yield Panel(id="file")
                with Horizontal(classes="buttons"):
                    yield Button(Content("Seal it"), id="seal", disabled=True)
            with VerticalScroll(id="pane-recipe", classes="pane", can_focus=False):
                yield from (FormField(each, fields[each.name]) for each in RECIPE)
            with VerticalScroll(id="pane-money", classes="pane", can_focus=False):
                yield from (FormField(each, fields[each.name]) for each in MONEY)
            with VerticalScroll(id="pane-sign", classes="pane", can_focus=False):
                yield Panel(id="page")
                with Horizontal(classes="buttons"):
                    yield Button(Content("[ ] I have read this page"), id="read")
                    yield Button(Content("Sign and submit"), id="sign")
                    yield Button(Content("Open the job"), id="open")
                yield Panel(id="signed")
            yield Panel(id="quote")
        yield TooSmall()

    def on_mount(self) -> None:
        """The first step has the keys."""
        super().on_mount()
        self._to(self.state.step)

    def on_unmount(self) -> None:
        """What was typed last is kept."""
        if not self.state.accepted:
            self._save()

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact; an accepted job needs no draft any more."""
        before = self.state
        self.state = job.apply(before, fact, now)
        if self.state.accepted and not before.accepted and (drafts := self._drafts) is not None:
            drafts.forget()
        if self.state.data != before.data:
            self._save()

    def draw(self) -> None:
        """Show the state; ask for a quote where one is worth it."""
        self._quote_if_wanted()
        state, setup, now, online = self.state, self.shared.setup, self.now, self.shared.online
        note = self._unsaved or (
            "" if self._saved_at is None else f"draft saved {ago(self._saved_at, now)}"
        )
        heads = words.heads(state, setup)
        self.query_one(StepBar).show(heads, note)
        self.query_one(TooSmall).say([say(f"New job, step {state.step.value}")])
        self.query_one("#models", PickList).show(words.model_lines(state, setup))
        self.query_one("#model-notes", Panel).say(words.model_notes(setup))
        self.query_one("#sealed", PickList).show(words.data_lines(state, setup))
        self.query_one("#file", Panel).say(words.file_lines(state, now))
        check = state.check
        fine = check is not None and check.done and not check.faults_total and check.rows > 0
        self.query_one("#seal", Button).disabled = not fine or state.seal_asked_at is not None
        quote = words.quote_lines(state, now, online=online)
        if state.step is Step.MONEY:
            quote += words.free_lines(state, self.shared.balance)
        shown = state.step in {Step.RECIPE, Step.MONEY}
        self.query_one("#quote", Panel).say(quote if shown else [])
        self._draw_sign(now, online=online)
        self._draw_faults()

    def _draw_sign(self, now: int, *, online: bool) -> None:
        state = self.state
        self.query_one("#page", Panel).say(words.page_lines(state, now, online=online))
        quote = state.current_quote
        ticked = quote is not None and state.read == quote.manifest
        read = self.query_one("#read", Button)
        if (label := f"[{'✓' if ticked else ' '}] I have read this page") != str(read.label):
            read.label = Content(label)
        read.display = self.query_one("#sign", Button).display = not state.accepted
        self.query_one("#open", Button).display = state.accepted
        self.query_one("#signed", Panel).say(words.sign_lines(state, now, online=online))

    def _draw_faults(self) -> None:
        for step, fields in ((Step.RECIPE, RECIPE), (Step.MONEY, MONEY)):
            faults = job.step_faults(self.state, step, self.shared.setup)
            for each in fields:
                typed = self.state.fields.get(each.name) != DEFAULTS[each.name]
                fault = faults.get(each.name, "") if typed or step in self._tried else ""
                self.query_one(f"#field-{each.name}", FormField).fault(fault)

    # --- steps ------------------------------------------------------------------------------------

    def _to(self, step: Step, field: str = "") -> None:
        """Go to a step, and to a field of it."""
        self.state = dataclasses.replace(self.state, step=step)
        for each in STEPS:
            self.query_one(f"#pane-{each.value}").set_class(each is step, "-here")
        self.redraw()
        self.call_after_refresh(self._focus, step, field)

    def _focus(self, step: Step, field: str) -> None:
        match step:
            case Step.MODEL:
                self.query_one("#models").focus()
            case Step.DATA:
                sealed = self.query_one("#sealed", PickList)
                (sealed if sealed.option_count and not field else self.query_one("#path")).focus()
            case Step.RECIPE | Step.MONEY:
                first = RECIPE[0].name if step is Step.RECIPE else MONEY[0].name
                self.query_one(f"#field-{field or first}", FormField).focus_input()
            case Step.SIGN:
                self.query_one("#open" if self.state.accepted else "#read").focus()

    def action_next(self) -> None:
        """To the first fault of the steps up to here, else to the next step, else sign."""
        step = self.state.step
        self._tried.add(step)
        upto = Step.MONEY if step is Step.SIGN else step
        fault = job.first_fault(self.state, self.shared.setup, upto=upto)
        if fault is not None:
            self._tried.add(fault[0])
            reason = job.step_faults(self.state, fault[0], self.shared.setup)[fault[1]]
            if fault[0] in {Step.MODEL, Step.DATA}:
                self.notify(reason, markup=False, severity="warning")
            self._to(fault[0], fault[1])
        elif step is Step.SIGN:
            self.action_sign()
        else:
            self._to(STEPS[STEPS.index(step) + 1])

    def action_back(self) -> None:
        """Stop sealing; else out of a field; else a step back; else away, with the draft kept."""
        step = self.state.step
        if step is Step.DATA and self.state.is_sealing:
            self._stop_sealing()
            self.redraw()
        elif isinstance(self.focused, Input):
            self.set_focus(None)
        elif step is not Step.MODEL:
            self._to(STEPS[STEPS.index(step) - 1])
        elif not self.asks_before_leaving(quits=False):
            self.dismiss(None)

    @on(StepBar.Chosen)
    def _chosen_step(self, message: StepBar.Chosen) -> None:
        self._to(STEPS[message.index])

    def asks_before_leaving(self, *, quits: bool = True) -> bool:
        """Whether it asks first: sealing would be lost, or a draft that can't be kept."""
        changed = job.kept_of(self.state) != job.kept_of(job.State())
        kept = not changed or self.state.accepted or self._save()
        if not self.state.is_sealing and kept:
            return False
        what = "sealing stops, and nothing of it has left" if kept else "this draft is lost"

        def leave() -> None:
            if self.state.is_sealing:
                self._stop_sealing()
            if quits:
                self.app.exit()
            else:
                self.dismiss(None)

        ask_first(self.app, Confirm(f"Leave: {what}.", yes="Leave", no="Stay"), leave)
        return True

    # --- drafts -----------------------------------------------------------------------------------

    @property
    def _drafts(self) -> DraftsPort | None:
        return self.blindhost.drafts

    def _load(self) -> KeptDraft | None:
        drafts = self._drafts
        return None if drafts is None else drafts.load()

    def _save(self) -> bool:
        """Keep the draft; whether it is kept."""
        drafts = self._drafts
        if drafts is None:
            return False
        try:
            drafts.save(job.kept_of(self.state))
        except OSError as error:
            self._unsaved = f"draft NOT SAVED: {error.strerror or type(error).__name__}"
            return False
        self._saved_at, self._unsaved = self.now, ""
        return True

    # --- model and data ---------------------------------------------------------------------------

    @on(OptionList.OptionSelected, "#models")
    def _model_chosen(self, event: OptionList.OptionSelected) -> None:
        setup = self.shared.setup
        if setup is None or event.option_index >= len(setup.models):
            return
        model = setup.models[event.option_index]
        if not model.tunable:
            self.notify(f"{model.name} may not be tuned: {model.words}", markup=False)
            return
        self.state = dataclasses.replace(self.state, model=model.id)
        self._save()
        self._to(Step.DATA)

    @on(OptionList.OptionSelected, "#sealed")
    def _data_chosen(self, event: OptionList.OptionSelected) -> None:
        setup = self.shared.setup
        if setup is not None and event.option_index < len(setup.data):
            self.state = dataclasses.replace(self.state, data=setup.data[event.option_index].id)
            self._save()
            self._to(Step.RECIPE)

    def action_heldout(self) -> None:
        """The sealed dataset under the cursor is what is held out, or no more."""
        setup, sealed = self.shared.setup, self.query_one("#sealed", PickList)
        at = sealed.highlighted
        if self.state.step is not Step.DATA or setup is None or at is None:
            return
        chosen = setup.data[at].id if at < len(setup.data) else ""
        heldout = "" if chosen == self.state.heldout else chosen
        self.state = dataclasses.replace(self.state, heldout=heldout)
        self._save()
        self.redraw()

    @on(Input.Changed, "#path")
    def _path_typed(self, event: Input.Changed) -> None:
        if self.state.is_sealing and event.value.strip() != self.state.path:
            self._stop_sealing()  # it would go on for a file that is no more shown
        self.state = job.with_path(self.state, event.value.strip())
        self.redraw()

    @on(Input.Submitted, "#path")
    def _path_entered(self) -> None:
        if self.state.path and not self.state.is_sealing:
            name = new_id()
            self.state = job.asked_check(self.state, name, self.now)
            self.ask(CheckDataset(id=name, path=self.state.path))
            self.redraw()

    @on(Button.Pressed, "#seal")
    def _seal(self) -> None:
        name = new_id()
        self.state = job.asked_seal(self.state, name, self.now)
        path = self.state.path
        self.ask(SealDataset(id=name, path=path, name=job.default_name(path)))
        self.redraw()

    def _stop_sealing(self) -> None:
        self.ask(StopSealing(id=new_id(), path=self.state.path))
        self.state = job.stopped_seal(self.state)

    # --- recipe, money, quote ---------------------------------------------------------------------

    @on(Input.Changed, "FormField Input")
    def _field_typed(self, event: Input.Changed) -> None:
        before = self.state
        self.state = job.with_field(before, event.input.name or "", event.value)
        if self.state is not before:
            if self._typing is not None:
                self._typing.stop()
            self._typing = self.set_timer(TYPING_SECONDS, self._typed_enough)
            self.redraw()

    @on(Input.Submitted, "FormField Input")
    def _field_entered(self) -> None:
        self.focus_next()

    def _typed_enough(self) -> None:
        self._typing = None
        self._save()
        self.redraw()

    def _quote_if_wanted(self) -> None:
        if self._typing is None and job.wants_quote(
            self.state, self.shared.setup, online=self.shared.online
        ):
            self.action_quote()

    def action_quote(self) -> None:
        """Ask for a quote of this draft, again if need be."""
        draft = self.state.draft
        if draft is not None and not self.state.accepted:
            name = new_id()
            self.state = job.asked_quote(self.state, name, self.now)
            self.ask(WantQuote(id=name, draft=draft, offer=self.state.offer))

    # --- the page ---------------------------------------------------------------------------------

    @on(Button.Pressed, "#read")
    def _read(self) -> None:
        quote = self.state.current_quote
        if quote is not None:
            read = "" if self.state.read == quote.manifest else quote.manifest
            self.state = dataclasses.replace(self.state, read=read)
            self.redraw()

    @on(Button.Pressed, "#sign")
    def action_sign(self) -> None:
        """(1) Nothing stands against it. (2) A person says yes to its effect, once more."""
        why = job.cannot_sign(self.state, self.now, online=self.shared.online)
        if why:  # (1)
            self.notify(f"not yet: {why}", markup=False, severity="warning")
            return
        panel = Confirm(words.effect(self.state), yes="Sign and submit")
        ask_first(self.app, panel, self._confirmed)  # (2)

    def _confirmed(self) -> None:
        """(1) It still stands: the quote may have run out meanwhile. (2) The id is kept before it
        is posted.
        """
        why = job.cannot_sign(self.state, self.now, online=self.shared.online)
        if why:  # (1)
            self.notify(f"not signed: {why}", markup=False, severity="warning")
            return
        self.state = job.signed(self.state, new_id(), self.now)
        self._save()  # (2)
        state = self.state
        if state.submit_draft is not None:
            self.ask(Submit(id=state.submit_id, draft=state.submit_draft, offer=state.offer))
        self.redraw()

    @on(Button.Pressed, "#open")
    def _open(self) -> None:
        if self.state.result is not None:
            app, name = self.blindhost, self.state.result.job
            self.dismiss(None)
            open_link(app, ("job", name))

    def action_json(self) -> None:
        """The manifest, as it would be signed but for its nonce."""
        quote = self.state.current_quote
        if quote is not None:
            lines = [say(each) for each in quote.manifest.splitlines()]
            self.app.push_screen(
                Reading("manifest, as it would be signed but for its nonce", lines)
            )

    def action_copy(self) -> None:
        """The job's name, or the place of the first fault in the file."""
        result, check = self.state.result, self.state.check
        if result is not None and result.job:
            self.blindhost.copy(result.job, what="job id")
        elif self.state.step is Step.DATA and check is not None and check.faults:
            self.blindhost.copy(f"{check.path}:{check.faults[0].line}", what="file and line")

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return words.plain(self.state, self.shared.setup, self.now, online=self.shared.online)
