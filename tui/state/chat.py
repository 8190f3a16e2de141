"""A conversation with one or two models: who they are, to whose chip the words are sealed, turns.

What was typed and answered lives here and nowhere else: it is in no file, and `blank` forgets it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from tui.facts import ChatHead, Delta, Fact, Failure, TurnEnd, TurnWhy
from tui.text import ago, short, span

TURNS_MAX: Final = 200
REPLY_CHARACTERS_MAX: Final = 1 << 18
MODELS_MAX: Final = 64
CUT_MARK: Final = "[CUT]"
_WELL: Final = frozenset({TurnWhy.STOP, TurnWhy.LENGTH})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one model said in one turn, so far or in all."""

    model: str
    text: str = dataclasses.field(default="", repr=False)
    end: TurnEnd | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One prompt and its replies, in the order of the panes."""

    id: str
    prompt: str = dataclasses.field(repr=False)
    replies: tuple[Reply, ...]
    asked_at: int

    @property
    def running(self) -> bool:
        """A reply goes on."""
        return any(each.end is None for each in self.replies)

    def reply(self, model: str) -> Reply | None:
        """The reply of a model."""
        return next((each for each in self.replies if each.model == model), None)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Heads by model, the models spoken to (one or two), turns oldest first."""

    heads: Mapping[str, ChatHead] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    chosen: tuple[str, ...] = ()
    picked: bool = False
    """A person chose them; until then, and until the first prompt, the usual two are."""
    turns: tuple[Turn, ...] = ()
    heard: bool = False
    said: str = ""
    """Why nothing can be said, or what went wrong."""
    blind: bool = False
    """Names are hidden, and the order is drawn for each turn, until a vote."""
    votes: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Turn to model."""

    @property
    def models(self) -> tuple[ChatHead, ...]:
        """Who can be spoken to now, base models last, tuned first."""
        alive = (each for each in self.heads.values() if not each.gone)
        return tuple(sorted(alive, key=lambda each: (not each.model.startswith("ft:"), each.model)))

    @property
    def newest(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact. Words of a turn that is over, or that nobody asked, change nothing."""
    match fact:
        case ChatHead():
            old = state.heads.get(fact.model)
            if old is not None and old.as_of > fact.as_of:
                return state
            heads = MappingProxyType(dict(state.heads) | {fact.model: fact})
            if len(heads) > MODELS_MAX:
                return state
            return _choose(dataclasses.replace(state, heads=heads, heard=True, said=""))
        case Delta(turn=turn, model=model, text=text):
            return _reply(state, turn, model, lambda reply: _longer(reply, text))
        case TurnEnd(turn=turn, model=model):
            return _reply(state, turn, model, lambda reply: dataclasses.replace(reply, end=fact))
        case Failure(where="chat"):
            return dataclasses.replace(state, said=fact.words, heard=True)
        case _:
            return state


def _longer(reply: Reply, text: str) -> Reply:
    room = REPLY_CHARACTERS_MAX - len(reply.text)
    return dataclasses.replace(reply, text=reply.text + text[: max(0, room)])


def _reply(state: State, turn: str, model: str, change: Callable[[Reply], Reply]) -> State:
    def changed(each: Turn) -> Turn:
        if each.id != turn:
            return each
        replies = tuple(
            change(reply) if reply.model == model and reply.end is None else reply
            for reply in each.replies
        )
        return dataclasses.replace(each, replies=replies)

    return dataclasses.replace(state, turns=tuple(changed(each) for each in state.turns))


def _choose(state: State) -> State:
    """Base beside tuned, where nobody has chosen yet; who is gone is chosen no longer."""
    alive = {each.model for each in state.models}
    chosen = tuple(each for each in state.chosen if each in alive)
    if chosen and state.picked:
        return dataclasses.replace(state, chosen=chosen)
    tuned = next((each.model for each in state.models if each.model.startswith("ft:")), None)
    base = None if tuned is None else tuned.split(":")[1]
    first = base if base in alive else next(iter(sorted(alive)), None)
    found = tuple(each for each in (first, tuned) if each is not None)
    return dataclasses.replace(state, chosen=tuple(dict.fromkeys(found)))


def choose(state: State, models: tuple[str, ...]) -> State:
    """Speak to these: one or two of those that are there."""
    known = tuple(dict.fromkeys(each for each in models if each in state.heads))[:2]
    return dataclasses.replace(state, chosen=known, picked=True) if known else state


def say(state: State, turn: str, prompt: str, now: int) -> State:
    """A turn begins, at everyone who is chosen."""
    replies = tuple(Reply(model=each) for each in state.chosen)
    said = Turn(id=turn, prompt=prompt, replies=replies, asked_at=now)
    return dataclasses.replace(state, turns=(*state.turns, said)[-TURNS_MAX:], picked=True)


def blank(state: State) -> State:
    """Forget all that was said."""
    return dataclasses.replace(state, turns=(), votes=MappingProxyType({}))


def vote(state: State, side: int) -> State:
    """Prefer the reply in pane `side` of the newest turn; names are shown again."""
    turn = state.newest
    order = panes(state)
    if turn is None or turn.running or not 0 <= side < len(order):
        return state
    votes = MappingProxyType(dict(state.votes) | {turn.id: order[side]})
    return dataclasses.replace(state, votes=votes, blind=False)


def panes(state: State) -> tuple[str, ...]:
    """Models from left to right; while blind, in an order that the newest turn's name draws."""
    turn = state.newest
    if not state.blind or turn is None or len(state.chosen) < 2:
        return state.chosen
    swapped = hashlib.sha256(turn.id.encode()).digest()[0] % 2
    return state.chosen[::-1] if swapped else state.chosen


def messages(state: State, model: str, prompt: str) -> tuple[tuple[str, str], ...]:
    """What this model has heard and said, then the prompt. A reply that was cut is not repeated."""
    found: list[tuple[str, str]] = []
    for turn in state.turns:
        reply = turn.reply(model)
        if reply is not None and reply.end is not None and reply.end.why in _WELL and reply.text:
            found += [("user", turn.prompt), ("assistant", reply.text)]
    return (*found, ("user", prompt))


def head_words(state: State, model: str, side: int) -> str:
    """Who speaks in a pane, and how fast the newest reply was."""
    if state.blind:
        return f"model {'AB'[side]} (blind: f2 or f3 to prefer one)"
    words = model
    turn = state.newest
    reply = None if turn is None else turn.reply(model)
    if reply is not None and reply.end is not None and reply.end.milliseconds and reply.end.tokens:
        speed = reply.end.tokens * 1000 // reply.end.milliseconds
        words += f" · {speed} tok/s · {reply.end.tokens} tokens"
    count = sum(1 for each in state.votes.values() if each == model)
    return f"{words} · preferred {count} ×" if count else words


def seal_words(state: State, model: str, now: int) -> str:
    """To whom this pane's words are sealed."""
    head = state.heads.get(model)
    if head is None or head.gone:
        return "served no longer"
    if not head.chip or head.verified_at is None:
        return "nothing is sent before its enclave is verified"
    return f"sealed to chip {short(head.chip)}, verified {ago(head.verified_at, now)}"


def end_words(end: TurnEnd | None, asked_at: int, now: int) -> str:
    """How a reply ended; what is awaited while it has not."""
    if end is None:
        return f"waiting, {span(max(0, now - asked_at))}"
    match end.why:
        case TurnWhy.STOP:
            return ""
        case TurnWhy.LENGTH:
            return "ended at the longest reply that was asked for"
        case TurnWhy.STOPPED:
            return "stopped by you"
        case _:
            return f"{CUT_MARK} {end.words}"


def empty_words(state: State) -> tuple[str, ...]:
    """Why there is nobody to speak to, and what to do."""
    if state.said:
        return (state.said,)
    if not state.heard:
        return ("asking which models are served …",)
    return (
        "Nobody is served now. Serve a model or an adapter, and run the gateway beside this:",
        "  blindhost job submit serve.json --model ID --adapter ID",
        "  blindhost gateway",
    )


def plain(state: State, now: int) -> Iterator[str]:
    """The screen in lines."""
    if not state.chosen:
        yield from empty_words(state)
        return
    for side, model in enumerate(panes(state)):
        yield f"pane {side + 1}: {head_words(state, model, side)}; {seal_words(state, model, now)}"
    for turn in state.turns:
        yield f"you: {turn.prompt}"
        for side, model in enumerate(panes(state)):
            reply = turn.reply(model)
            if reply is not None:
                name = f"model {'AB'[side]}" if state.blind else model
                ended = end_words(reply.end, turn.asked_at, now)
                yield f"{name}: {reply.text}" + (f" ({ended})" if ended else "")
