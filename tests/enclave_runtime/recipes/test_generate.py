"""The engine: what each request gets, whoever else is there, and what a bad one gets."""

from __future__ import annotations

import array
from typing import Any

import pytest
import torch

from enclave_runtime.recipes.adapters import Adapters
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.generate import PREFILL_TOKENS, Asked, Engine
from tests.enclave_runtime.recipes.engines import (
    Replies,
    adapter_bytes,
    asked,
    demo,
    engine,
    generate_recipe,
    prompt,
    replies,
    tiny,
)
from trust.jobs import Precision


def crowd(count: int, *, first: int = 100) -> list[Asked]:
    """Requests of every kind and length."""
    return [
        asked(
            number,
            ids=prompt(number, 3 + number * 7 % 40),
            tokens_max=3 + number * 5 % 30,
            temperature=(0, 0.7, 1.3)[number % 3],
            top_p=(1, 0.9)[number % 2],
        )
        for number in range(first, first + count)
    ]


# --- greedy --------------------------------------------------------------------------------------


def test_greedy_replies_equal_those_of_transformers_generate() -> None:
    requests = [asked(n, ids=prompt(n, 5 + 9 * n), tokens_max=9 + 4 * n) for n in range(6)]
    said = replies(engine(slots=4), *requests)
    for each in requests:
        out = demo().generate(
            torch.tensor([each.ids]),
            do_sample=False,
            max_new_tokens=each.tokens_max,
            pad_token_id=0,
        )
        wanted = out[0, len(each.ids) :].tolist()
        stopped = wanted[-1] == 2
        assert said.ids[each.handle] == (wanted[:-1] if stopped else wanted)
        assert said.finish[each.handle] == ("stop" if stopped else "length")


def test_the_token_that_ends_a_reply_is_not_part_of_it() -> None:
    (whole,) = replies(engine(), asked(1)).ids.values()
    ending = whole[5]
    served = Engine(
        demo(),
        Words(pad=0, eos_ids=frozenset({ending}), context=512),
        generate_recipe(),
        length_max=128,
        adapters=Adapters(demo(), []),
    )
    said = replies(served, asked(1))
    assert said.ids[1] == whole[: whole.index(ending)]
    assert said.finish[1] == "stop"


def test_ids_as_bytes_are_the_same_request() -> None:
    packed = array.array("I", prompt(1)).tobytes()
    said = replies(engine(), asked(1), asked(2, ids=packed), asked(3, ids=list(prompt(1))))
    assert said.ids[1] == said.ids[2] == said.ids[3]
    assert len(said.ids[1]) == 16


def test_a_slot_may_be_filled_to_its_last_token() -> None:
    said = replies(engine(length_max=28), asked(1), asked(2))
    assert [len(ids) for ids in said.ids.values()] == [16, 16]
    assert said.ids == replies(engine(), asked(1), asked(2)).ids


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [1, 0.8])
def test_seeded_reply_is_the_same_alone_and_among_others(top_p: float) -> None:
    mine = [asked(n, temperature=1.0, top_p=top_p, tokens_max=24) for n in (1, 2)]
    alone = [replies(engine(slots=16), each).ids[each.handle] for each in mine]
    others = crowd(24)
    among = replies(engine(slots=16), *others[:12], *mine, *others[12:])
    assert [among.ids[each.handle] for each in mine] == alone
    assert alone[0] != alone[1]


def test_another_seed_makes_another_reply() -> None:
    requests = [asked(n, ids=prompt(1), seed=n, temperature=1.0) for n in (1, 2)]
    said = replies(engine(), *requests, asked(3, ids=prompt(1), seed=1, temperature=1.0))
    assert said.ids[1] == said.ids[3] != said.ids[2]


# --- bad requests --------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"ids": (5, 2048)}, "token: "),
    ({"ids": (5, -1)}, "token: "),
    ({"ids": (5, 1.5)}, "token: "),
    ({"ids": array.array("I", [1, 1 << 31]).tobytes()}, "token: "),
    ({"ids": ()}, "length: 0 tokens"),
    ({"ids": bytes(7)}, "length: 1 tokens"),
    ({"ids": (5,) * 129}, "length: 129 tokens"),
    ({"tokens_max": 117}, "length: a reply of 117 tokens; wanted 1 to 116"),
    ({"ids": (5,), "tokens_max": 121}, "length: a reply of 121 tokens; wanted 1 to 120"),
    ({"tokens_max": 0}, "length: a reply of 0"),
    ({"tokens_max": True}, "length: a reply of True"),
    ({"adapter": 1}, "adapter: number 1 of 0"),
    ({"adapter": -1}, "adapter: number -1"),
    ({"temperature": float("nan")}, "temperature: it is no finite number"),
    ({"temperature": float("inf")}, "temperature: it is no finite number"),
    ({"temperature": 10**400}, "temperature: it is no finite number"),
    ({"temperature": -0.5}, "temperature: -0.5"),
    ({"top_p": 0}, "top-p: 0;"),
    ({"top_p": 1.5}, "top-p: 1.5"),
    ({"top_p": "1"}, "top-p: it is no finite number"),
    ({"seed": 1 << 64}, "seed: "),
    ({"seed": -1}, "seed: "),
    ({"seed": 0.5}, "seed: "),
]


def test_bad_requests_fail_alone_and_say_why() -> None:
    good = [asked(n, temperature=n % 2) for n in range(4)]
    alone = replies(engine(), *good)
    bad = [asked(100 + number, **changes) for number, (changes, _text) in enumerate(BAD)]
    mixed = [each for n, request in enumerate(bad) for each in (request, *good[n : n + 1])]
    said = replies(engine(), *mixed)
    assert {each.handle: said.ids[each.handle] for each in good} == alone.ids
    for request, (_changes, text) in zip(bad, BAD, strict=True):
        assert said.finish[request.handle] == "error"
        assert said.ids[request.handle] == []
        assert said.texts[request.handle].startswith(text)


# --- slots ---------------------------------------------------------------------------------------


def test_more_requests_than_slots_wait_for_their_turn() -> None:
    requests = crowd(23)
    served = engine(slots=3)
    for each in requests:
        served.add(each)
    said, most = Replies(), 0
    while not served.idle:
        emitted = served.step()
        most = max(most, len(served._rows))
        said.take(emitted)
    assert most == 3
    assert set(said.ids) == {each.handle for each in requests}
    for each in requests[::5]:
        assert replies(engine(slots=3), each).ids[each.handle] == said.ids[each.handle]


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_cancel_frees_the_slot_at_once_and_hurts_nobody(steps: int) -> None:
    served = engine(slots=2)
    alone = replies(engine(slots=2), asked(2), asked(3)).ids
    for number in (1, 2, 3):
        served.add(asked(number, tokens_max=100 if number == 1 else 16))
    said = Replies()
    for _ in range(steps):
        said.take(served.step())
    served.cancel(1)
    before = list(said.ids.get(1, []))
    said.take(served.step())
    assert served._handles() == {2, 3}
    assert not served._waiting or steps == 0
    while not served.idle:
        said.take(served.step())
    assert {n: said.ids[n] for n in (2, 3)} == alone
    assert said.ids.get(1, []) == before
    served.cancel(1)
    served.cancel(77)
    assert served.idle


def zeros(served: Engine) -> bool:
    cache = served._cache
    return not any(each.any() for each in (*cache._keys, *cache._values))


def test_slots_are_zeros_once_their_requests_are_gone() -> None:
    served = engine(slots=4, length_max=512)
    for each in crowd(9):
        served.add(each)
    served.add(asked(1, ids=prompt(1, 400)))
    served.add(asked(2, ids=prompt(2, 400)))
    said, cancelled = Replies(), False
    while not served.idle:
        said.take(served.step())
        if served._filling is not None and not cancelled:
            assert not zeros(served)
            served.cancel(served._filling.asked.handle)
            cancelled = True
    assert cancelled
    assert zeros(served)


def test_request_whose_logits_overflow_fails_alone_and_leaves_nothing_behind() -> None:
    huge = adapter_bytes(1, size=1e30)
    served = engine(tiny(), adapters=(huge,), slots=3)
    good = [asked(n, temperature=n % 2) for n in (1, 2, 3)]
    alone = replies(engine(tiny(), adapters=(huge,), slots=3), *good)
    bad = [asked(n, adapter=1, temperature=n % 2) for n in (10, 11)]
    said = replies(served, good[0], bad[0], good[1], bad[1], good[2])
    for each in bad:
        assert said.finish[each.handle] == "error"
        assert "not finite" in said.texts[each.handle]
    assert {each.handle: said.ids[each.handle] for each in good} == alone.ids
    assert zeros(served)


def test_prompt_that_cannot_be_computed_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    served = engine(slots=3)
    alone = replies(engine(slots=3), asked(1), asked(3)).ids
    whole = served._prompt_logits

    def fails(row: Any, start: int, end: int) -> torch.Tensor:
        logits = whole(row, start, end)
        if row.asked.handle == 2:
            raise MemoryError
        return logits

    monkeypatch.setattr(served, "_prompt_logits", fails)
    said = replies(served, asked(1), asked(2), asked(3))
    assert said.finish[2] == "error"
    assert {n: said.ids[n] for n in (1, 3)} == alone
    assert zeros(served)


# --- prompts in pieces ---------------------------------------------------------------------------


def test_prompt_in_pieces_is_the_prompt_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [asked(n, ids=prompt(n, 50 + n), temperature=n % 2) for n in range(4)]
    whole = replies(engine(), *requests)
    monkeypatch.setattr("enclave_runtime.recipes.generate.PREFILL_TOKENS", 16)
    pieces = replies(engine(), *requests)
    assert pieces.ids == whole.ids


def test_others_go_on_while_a_long_prompt_is_filled() -> None:
    served = engine(slots=3, length_max=3 * PREFILL_TOKENS)
    served.add(asked(1, tokens_max=40))
    said = Replies()
    said.take(served.step())
    served.add(asked(2, ids=prompt(2, 2 * PREFILL_TOKENS + 1), tokens_max=4))
    counts = []
    while 2 not in said.ids:
        said.take(served.step())
        counts.append(len(said.ids[1]))
    assert counts == [2, 3, 4]
    while not served.idle:
        said.take(served.step())
    assert said.ids[1] == replies(engine(), asked(1, tokens_max=40)).ids[1]


def test_prompt_that_is_moved_while_it_is_filled_gets_its_own_reply() -> None:
    length = 3 * PREFILL_TOKENS
    long = asked(9, ids=prompt(9, length - 60), tokens_max=24)
    alone = replies(engine(slots=4, length_max=length), long).ids[9]
    served = engine(slots=4, length_max=length)
    short = [asked(1, tokens_max=3), asked(2, tokens_max=24), asked(3, tokens_max=24)]
    for each in (*short, long):
        served.add(each)
    said = Replies()
    said.take(served.step())
    said.take(served.step())
    assert served._filling is not None
    assert len(served._rows) == 3
    said.take(served.step())
    assert said.finish[1] == "length"
    while not served.idle:
        said.take(served.step())
    assert said.ids[9] == alone
    for each in short:
        assert said.ids[each.handle] == replies(engine(), each).ids[each.handle]


# --- bf16 ----------------------------------------------------------------------------------------


def test_bf16_with_fixed_shapes_gives_the_same_reply_alone_and_among_others() -> None:
    def served() -> Engine:
        return engine(demo(Precision.BF16), slots=12, precision=Precision.BF16, fixed_shapes=True)

    mine = [asked(n, temperature=n % 2, tokens_max=24) for n in range(1, 5)]
    alone = [replies(served(), each).ids[each.handle] for each in mine]
    others = crowd(14)
    among = replies(served(), *others[:9], *mine, *others[9:])
    assert [among.ids[each.handle] for each in mine] == alone
