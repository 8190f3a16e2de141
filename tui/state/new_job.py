"""What the new job screen knows: a draft in five steps, a file on its way, a quote, a submission.

- A quote counts for the draft that it was made for, and until it expires. What a person has read is
  that quote's manifest: another one has not been read.
- `submit_id` names one signing: it changes when the draft does, and not before.
- An accepted job, and a file that is sealed, stay so whatever comes after.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

from tui.facts import (
    DatasetCheck,
    Fact,
    Failure,
    JobDraft,
    OfferRow,
    Quote,
    SealProgress,
    Setup,
    SubmitResult,
    Submitted,
)
from tui.state.job_fields import (
    DEFAULTS,
    FIELDS,
    MONEY,
    RECIPE,
    TEXT_CHARACTERS_MAX,
    KeptDraft,
    credits_text,
    draft_of,
    fault_of,
    faults_of,
)

PATH_CHARACTERS_MAX: Final = 4096


class Step(enum.StrEnum):
    """The five steps."""

    MODEL = "model"
    DATA = "data"
    RECIPE = "recipe"
    MONEY = "money"
    SIGN = "sign"


STEPS: Final = tuple(Step)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A draft, and what came of what was asked for it."""

    step: Step = Step.MODEL
    model: str = ""
    data: str = ""
    heldout: str = ""
    offer: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(DEFAULTS))
    path: str = ""
    """Of the file that is checked or sealed."""
    check_id: str = ""
    check_asked_at: int | None = None
    check: DatasetCheck | None = None
    seal_id: str = ""
    seal_asked_at: int | None = None
    sealing: SealProgress | None = None
    quote_id: str = ""
    quote_asked_at: int | None = None
    quote_for: JobDraft | None = None
    """The draft that it was asked for."""
    quote: Quote | None = None
    read: str = ""
    """The manifest that a person has read."""
    submit_id: str = ""
    submit_draft: JobDraft | None = None
    submitted_at: int | None = None
    """None: nothing is awaited."""
    result: SubmitResult | None = None
    failure: Failure | None = None

    @property
    def draft(self) -> JobDraft | None:
        """The draft; None: something of it is missing or wrong."""
        return draft_of(self.fields, model=self.model, data=self.data, heldout=self.heldout)

    @property
    def is_sealing(self) -> bool:
        """A file is on its way, and would be lost."""
        if self.seal_asked_at is None:
            return False
        return self.sealing is None or self.sealing.stage != "done"

    @property
    def accepted(self) -> bool:
        """The job is the market's."""
        return self.result is not None and self.result.outcome is not Submitted.REFUSED

    @property
    def signed_before(self) -> bool:
        """The same draft was signed in an earlier window, and no answer is known."""
        return bool(
            self.submit_id
            and self.submit_draft == self.draft
            and self.submitted_at is None
            and self.result is None
        )

    @property
    def current_quote(self) -> Quote | None:
        """The quote of this very draft; it may have expired."""
        return self.quote if self.quote is not None and self.quote.draft == self.draft else None


# --- what a person does ---------------------------------------------------------------------------


def begun(*, kept: KeptDraft | None, offer: OfferRow | None, step: str) -> State:
    """A state from a kept draft, an offer that was chosen, and the step to open."""
    state = State()
    if kept is not None:
        state = dataclasses.replace(
            state,
            model=kept.model,
            data=kept.data,
            heldout=kept.heldout,
            offer=kept.offer,
            fields={**DEFAULTS, **kept.fields},
        )
        if kept.submit and state.draft is not None:
            state = dataclasses.replace(state, submit_id=kept.submit, submit_draft=state.draft)
    if offer is not None:
        state = dataclasses.replace(state, offer=offer.id)
        if not state.fields.get("price_max"):
            state = with_field(state, "price_max", credits_text(offer.ask))
    found = next((each for each in STEPS if each.value == step), Step.MODEL)
    return dataclasses.replace(state, step=found)


def kept_of(state: State) -> KeptDraft:
    """What is kept of it over a quit."""
    signed = state.submit_draft is not None and state.submit_draft == state.draft
    return KeptDraft(
        model=state.model,
        data=state.data,
        heldout=state.heldout,
        offer=state.offer,
        submit=state.submit_id if signed else "",
        fields={
            name: text
            for name, text in state.fields.items()
            if name in FIELDS and not fault_of(FIELDS[name], text)
        },
    )


def with_field(state: State, name: str, text: str) -> State:
    """A field was typed."""
    if name not in FIELDS or state.fields.get(name) == text:
        return state
    fields = {**state.fields, name: text.strip()[:TEXT_CHARACTERS_MAX]}
    return dataclasses.replace(state, fields=fields)


def with_path(state: State, path: str) -> State:
    """Another file."""
    path = path[:PATH_CHARACTERS_MAX]
    if path == state.path:
        return state
    return dataclasses.replace(
        state,
        path=path,
        check=None,
        check_id="",
        check_asked_at=None,
        sealing=None,
        seal_id="",
        seal_asked_at=None,
        failure=None,
    )


def asked_check(state: State, command: str, now: int) -> State:
    """A check was posted."""
    return dataclasses.replace(
        state, check=None, check_id=command, check_asked_at=now, failure=None
    )


def asked_seal(state: State, command: str, now: int) -> State:
    """Sealing was posted."""
    return dataclasses.replace(
        state, sealing=None, seal_id=command, seal_asked_at=now, failure=None
    )


def stopped_seal(state: State) -> State:
    """Sealing was stopped."""
    return dataclasses.replace(state, sealing=None, seal_id="", seal_asked_at=None)


def asked_quote(state: State, command: str, now: int) -> State:
    """A quote was asked for."""
    return dataclasses.replace(
        state, quote_id=command, quote_asked_at=now, quote_for=state.draft, failure=None
    )


def signed(state: State, new_id: str, now: int) -> State:
    """A person signs this draft; the same draft keeps its id."""
    draft = state.draft
    same = state.submit_id and state.submit_draft == draft
    return dataclasses.replace(
        state,
        submit_id=state.submit_id if same else new_id,
        submit_draft=draft,
        submitted_at=now,
        result=None,
        failure=None,
    )


def default_name(path: str) -> str:
    """A name for a dataset, from its file: what a name may hold, and no more."""
    stem = path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    kept = "".join(
        each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in stem
    )
    return kept.lstrip("._-")[:64] or "dataset"


# --- facts ----------------------------------------------------------------------------------------


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case DatasetCheck() if fact.path == state.path and state.path:
            return _check(state, fact)
        case SealProgress() if fact.path == state.path and state.seal_asked_at is not None:
            return _progress(state, fact)
        case Quote() if fact.draft == state.draft:
            if state.quote is not None and fact.as_of < state.quote.as_of:
                return state
            return dataclasses.replace(state, quote=fact, quote_asked_at=None)
        case SubmitResult() if state.submit_id and fact.command == state.submit_id:
            if state.accepted:
                return state
            return dataclasses.replace(state, result=fact, submitted_at=None)
        case Failure():
            return _failed(state, fact)
        case _:
            return state


def _check(state: State, fact: DatasetCheck) -> State:
    old = state.check
    if old is not None and (fact.as_of < old.as_of or (old.done and not fact.done)):
        return state
    return dataclasses.replace(
        state, check=fact, check_asked_at=None if fact.done else state.check_asked_at
    )


def _progress(state: State, fact: SealProgress) -> State:
    old = state.sealing
    if old is not None and (old.stage == "done" or fact.as_of < old.as_of):
        return state
    data = fact.artifact if fact.stage == "done" and fact.artifact else state.data
    return dataclasses.replace(state, sealing=fact, data=data)


def _failed(state: State, fact: Failure) -> State:
    """A failure ends the wait for what it names; of another screen's it says nothing here."""
    ends: dict[str, object] = {}
    if state.quote_id and fact.where == state.quote_id:
        ends = {"quote_asked_at": None}
    elif state.check_id and fact.where == state.check_id:
        ends = {"check_asked_at": None}
    elif state.seal_id and fact.where == state.seal_id:
        done = state.sealing is not None and state.sealing.stage == "done"
        ends = {} if done else {"seal_asked_at": None, "sealing": None}
    elif state.submit_id and fact.where == state.submit_id:
        ends = {"submitted_at": None}
    else:
        return state
    if fact.retry_in is not None:
        ends = {}
    return dataclasses.replace(state, failure=fact, **ends)  # type: ignore[arg-type]


# --- faults ---------------------------------------------------------------------------------------


def step_faults(state: State, step: Step, setup: Setup | None) -> dict[str, str]:
    """What is missing or wrong in a step, by field."""
    match step:
        case Step.MODEL:
            return _model_faults(state, setup)
        case Step.DATA:
            return {} if state.data else {"path": "no dataset is chosen: seal a file, or take one"}
        case Step.RECIPE:
            return faults_of(state.fields, names=RECIPE)
        case Step.MONEY:
            return faults_of(state.fields, names=MONEY)
        case Step.SIGN:
            return {}


def _model_faults(state: State, setup: Setup | None) -> dict[str, str]:
    if not state.model:
        return {"models": "no model is chosen"}
    if setup is None:
        return {}
    found = next((each for each in setup.models if each.id == state.model), None)
    if found is None:
        return {"models": "the model of this draft is not among yours any more"}
    return {} if found.tunable else {"models": f"{found.name} may not be tuned: {found.words}"}


def first_fault(state: State, setup: Setup | None, *, upto: Step) -> tuple[Step, str] | None:
    """Step and field of the first fault in the steps up to this one; None: there is none."""
    for step in STEPS[: STEPS.index(upto) + 1]:
        for field in step_faults(state, step, setup):
            return step, field
    return None


def cannot_sign(state: State, now: int, *, online: bool) -> str:
    """Why the page can't be signed now; empty: it can."""
    quote = state.current_quote
    if state.accepted:
        return "this job is submitted already"
    if state.draft is None:
        return "the draft is not whole: ^s goes to what is missing"
    if not online:
        return "the market does not answer"
    if state.submitted_at is not None:
        return "it is on its way"
    if quote is None:
        return "there is no quote for this draft yet"
    if now >= quote.expires_at:
        return "the quote is over: r asks for a new one"
    if quote.refused:
        return quote.refused
    if state.read != quote.manifest:
        return "tick that you have read the page"
    return ""


def wants_quote(state: State, setup: Setup | None, *, online: bool) -> bool:
    """A quote is worth asking for: the draft is whole, and none is here or on its way for it."""
    if not online or state.draft is None or state.accepted:
        return False
    if state.quote_for == state.draft and state.quote_id:
        return False  # it was asked for: what came of it is shown, and r asks again
    return state.current_quote is None and first_fault(state, setup, upto=Step.MONEY) is None
