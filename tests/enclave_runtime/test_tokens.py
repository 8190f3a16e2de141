"""The tokenizing child: what it may, what a bad row or a hostile template does, and equal ids."""

from __future__ import annotations

import array
import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime import confinement, tokens
from enclave_runtime.templating import Templater
from enclave_runtime.tokens import RowError, TokensChild
from tests.assets import DEMO, chat_rows, demo_files
from trust.errors import DocumentError, RefusedError
from trust.jobs import LossOn
from trust.model_files import ModelFiles, check_model_files

TRAIN = (DEMO / "train.jsonl").read_bytes().splitlines()
ROW = TRAIN[0]


def model_files(template: str | None = None, tokenizer: str | None = None) -> ModelFiles:
    files = check_model_files(demo_files(), template=None)
    return ModelFiles(
        config=files.config,
        tokenizer=files.tokenizer if tokenizer is None else tokenizer,
        template=files.template if template is None else template,
        special_tokens=files.special_tokens,
        eos_ids=files.eos_ids,
        context=files.context,
    )


def start(
    template: str | None = None,
    tokenizer: str | None = None,
    *,
    loss_on: LossOn = LossOn.ASSISTANT,
    length_max: int = 256,
) -> TokensChild:
    return TokensChild(model_files(template, tokenizer), loss_on=loss_on, length_max=length_max)


@pytest.fixture
def child() -> Iterator[TokensChild]:
    made = start()
    yield made
    made.stop()


# --- rows ----------------------------------------------------------------------------------------


def test_rows_and_masks_equal_those_of_transformers(child: TokensChild) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(DEMO)
    for number, line in enumerate(TRAIN[:200], start=1):
        row = child.row(number, line)
        wanted = reference.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        assert array.array("I", row.ids).tolist() == wanted["input_ids"]
        assert list(row.supervised) == wanted["assistant_masks"]
        assert 0 < sum(row.supervised) < len(row)


def test_prompt_ends_where_the_assistant_begins(child: TokensChild) -> None:
    prompt, reply = child.prompt(1, ROW)
    text = child.decode(1, prompt.ids)
    assert text.endswith("<|end|><|assistant|>")
    assert reply == json.loads(ROW)["messages"][-1]["content"]
    assert child.decode(1, child.row(1, ROW).ids) == f"{text}{reply}<|end|>"


def test_full_loss_supervises_every_token_but_the_first() -> None:
    child = start("{{ messages[0]['content'] }}", loss_on=LossOn.ALL)
    row = child.row(1, ROW)
    assert list(row.supervised) == [0] + [1] * (len(row) - 1)
    child.stop()


def test_unicode_and_several_turns_are_masked_by_turn(child: TokensChild) -> None:
    messages = [
        {"role": "system", "content": "Ein Lager – überall"},
        {"role": "user", "content": "日本語 🚀"},
        {"role": "assistant", "content": " führt  "},
        {"role": "user", "content": "\u200d?"},
        {"role": "assistant", "content": "ja 🚀"},
    ]
    row = child.row(1, json.dumps({"messages": messages}).encode())
    ids = array.array("I", row.ids)
    kept = array.array("I", [i for i, s in zip(ids, row.supervised, strict=True) if s])
    assert child.decode(1, kept.tobytes()) == " führt  <|end|>ja 🚀<|end|>"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[]", "messages"),
        (b'{"messages":[]}', "1 to"),
        (b'{"messages":[],"messages":[]}', "twice"),
        (b'{"messages":[{"role":"user","content":"a"}],"id":1}', "messages alone"),
        (b'{"messages":[{"role":"tool","content":"a"}]}', "role"),
        (b'{"messages":[{"role":["user"],"content":"a"}]}', "role"),
        (b'{"messages":[{"role":"user","content":null}]}', "content"),
        (b'{"messages":[{"role":"user","content":"a","name":"b"}]}', "role and content"),
        (b'{"messages":[{"role":"user","content":"a"}]}', "supervised"),
        (b'{"messages":[{"role":"assistant","content":"\\ufdd0"}]}', "U\\+FDD0"),
        (b'{"messages":[{"role":"assistant","content":"\\ud800"}]}', "surrogate"),
        (b'{"messages":[{"role":"assistant","content":"' + b"a b " * 400 + b'"}]}', "length_max"),
    ],
)
def test_broken_line_is_named_and_the_child_goes_on(
    child: TokensChild, line: bytes, text: str
) -> None:
    with pytest.raises(RowError, match=text) as caught:
        child.row(17, line)
    assert caught.value.line == 17
    assert len(child.row(18, ROW)) > 10


def test_line_over_the_limit_is_named(child: TokensChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LINE_BYTES_MAX", 100)
    with pytest.raises(RowError, match="at most 100"):
        child.row(3, ROW)


def test_row_for_replies_must_end_with_the_assistant(child: TokensChild) -> None:
    with pytest.raises(RowError, match="no reference"):
        child.prompt(4, b'{"messages":[{"role":"user","content":"a"}]}')


# --- templates and tokenizers --------------------------------------------------------------------


def test_template_without_marker_is_refused_for_loss_on_the_assistant() -> None:
    with pytest.raises(RefusedError, match="generation"):
        start("{{ messages[0]['content'] }} generation")


def test_template_that_does_not_compile_is_refused() -> None:
    with pytest.raises(RefusedError, match="chat template"):
        start("{% generation %}")


def test_template_without_end_is_a_refusal_that_names_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "ANSWER_SECONDS_MAX", 0.5)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    child = start(loop, loss_on=LossOn.ALL)
    with pytest.raises(RowError, match="line 5: tokenizing took longer"):
        child.row(5, ROW)
    with pytest.raises(RowError, match="line 6: the tokenizing child ended"):
        child.row(6, ROW)


def test_template_that_takes_all_memory_is_a_refusal_that_names_the_line() -> None:
    child = start("{{ 'a' * 99999999 * 99 }}", loss_on=LossOn.ALL)
    with pytest.raises(RowError, match=r"line 5: .*(MemoryError|ended|Overflow)"):
        child.row(5, ROW)
    child.stop()


def test_template_that_makes_a_long_text_is_a_length_error() -> None:
    child = start("{{ 'a ' * 2000 }}", loss_on=LossOn.ALL)
    with pytest.raises(RowError, match="length_max"):
        child.row(5, ROW)
    child.stop()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ strftime_now('%Y') }}",
        "{{ messages | random }}",
        "{{ lipsum() }}",
    ],
)
def test_template_has_no_way_out_no_clock_and_no_dice(template: str) -> None:
    with pytest.raises((RefusedError, DocumentError), match="chat template: "):
        Templater(model_files(template), loss_on=LossOn.ALL, length_max=256).row(ROW)


def test_tokenizer_panic_is_a_refusal_sealed_to_the_buyer() -> None:
    # The session seals RowError's text to the buyer; here: it is one, and names the line.
    value = json.loads(demo_files()["tokenizer.json"])
    value["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": r"(?<=acquisition)(\s?\w+\s?)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    child = start(tokenizer=json.dumps(value))
    words = "acquisition " + "word " * 40 + "!"
    row = {"messages": [{"role": "assistant", "content": words}]}
    with pytest.raises(RowError, match=r"line 8: .*(Panic|ended|longer)"):
        child.row(8, json.dumps(row).encode())
    child.stop()


def test_tokenizer_that_does_not_load_is_refused() -> None:
    with pytest.raises(RefusedError, match="tokenizer"):
        start(tokenizer="{}")


def test_answer_over_its_bound_ends_the_child(
    child: TokensChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = child.row(1, ROW).ids * 40
    assert len(child.decode(1, ids)) > 4096
    monkeypatch.setattr(tokens, "DECODED_BYTES_PER_TOKEN_MAX", 0)
    with pytest.raises(RowError, match=r"line 1: the tokenizing child answered .* bytes; at most"):
        child.decode(1, ids)
    with pytest.raises(RowError, match="ended"):
        child.row(2, ROW)


def test_child_that_dies_names_the_line(child: TokensChild) -> None:
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RowError, match="line 9: the tokenizing child ended by signal 9"):
        child.row(9, ROW)
    child.stop()


# --- confinement ---------------------------------------------------------------------------------


def test_child_has_no_descriptor_but_its_two_pipes() -> None:
    ours, theirs = socket.socketpair()  # the enclave's door would be inherited like these
    with ours, theirs, Path(__file__).open("rb"):
        child = start()
        found = [str(each.readlink()) for each in Path(f"/proc/{child.pid}/fd").iterdir()]
        child.stop()
    assert len(found) == 2
    assert all(each.startswith("pipe:") for each in found)


def test_child_is_confined(child: TokensChild) -> None:
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    for name in ("Max open files", "Max file size", "Max core file size"):
        (line,) = [each for each in limits.splitlines() if each.startswith(name)]
        assert line.split()[-3] == "0" or line.split()[-2] == "0"


def _open_for_writing() -> None:
    os.open("/tmp/blindhost-must-not-be", os.O_CREAT | os.O_WRONLY)


def _attempts() -> list[Callable[[], Any]]:
    return [
        _open_for_writing,
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        os.fork,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.kill(os.getppid(), 0),
        lambda: confinement._prctl(0x59616D61),
        lambda: Path("/tmp/blindhost-must-not-be").mkdir(),
        os.pipe,
        lambda: os.dup(1),
    ]


@pytest.mark.parametrize("number", range(len(_attempts())))
def test_confined_process_can_only_compute(number: int) -> None:
    read, write = os.pipe()
    attempt = _attempts()[number]
    pid = os.fork()
    if pid == 0:
        answer = b"allowed"
        try:
            confinement.close_all_but(write)
            # The filter itself, without the limits: each attempt meets seccomp alone.
            confinement._prctl(confinement._PR_SET_NO_NEW_PRIVS, 1)
            confinement._install_filter(*confinement._CALLS[os.uname().machine])
            attempt()
        except OSError as error:
            answer = errno.errorcode[error.errno or 0].encode()
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    answer = os.read(read, 100)
    os.close(read)
    os.waitpid(pid, 0)
    assert answer == b"EPERM"


def test_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_CALLS", {})
    with pytest.raises(RefusedError, match="no system call table"):
        start()


def test_children_end_with_their_parent() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        made = start()
        os.write(write, str(made.pid).encode())
        signal.pause()
    ended = os.pidfd_open(int(os.read(read, 20)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert select.select([ended], [], [], 10)[0]
    for descriptor in (read, write, ended):
        os.close(descriptor)


def test_assets_rows_are_valid(child: TokensChild) -> None:
    rows = [child.row(n, line) for n, line in enumerate(chat_rows(20).splitlines(), start=1)]
    assert len({len(row) for row in rows}) > 3


# --- prompts of a serve job ----------------------------------------------------------------------


def test_a_chat_prompt_begins_the_assistants_turn_as_transformers_does(child: TokensChild) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(DEMO)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is my order? \u20ac 5"},
    ]
    wanted = reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    ids = child.ask_prompt(json.dumps({"messages": messages}).encode(), chat=True)
    assert array.array("I", ids).tolist() == wanted


def test_bare_text_gets_the_tokenizers_own_special_tokens(child: TokensChild) -> None:
    from transformers import AutoTokenizer

    wanted = AutoTokenizer.from_pretrained(DEMO)("Dear Noor,")["input_ids"]
    ids = child.ask_prompt(b"Dear Noor,", chat=False)
    assert array.array("I", ids).tolist() == wanted


def test_a_prompt_over_the_length_is_cut_where_its_reader_sees_it() -> None:
    made = start(length_max=8)
    try:
        ids = made.ask_prompt(b"one two three four five six seven eight nine ten", chat=False)
        assert len(ids) == 4 * 9
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("text", "chat"),
    [
        (b'{"messages": []}', True),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', True),
        (b"{", True),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_a_broken_prompt_fails_alone(child: TokensChild, text: bytes, chat: bool) -> None:
    with pytest.raises(RowError):
        child.ask_prompt(text, chat=chat)
    assert not child.ended
    assert child.ask_prompt(b"Dear", chat=False)


def test_the_child_of_a_serve_job_has_processor_time_for_months() -> None:
    import resource

    made = TokensChild(
        model_files(), loss_on=LossOn.ALL, length_max=64, cpu_seconds=tokens.SERVE_CPU_SECONDS_MAX
    )
    try:
        soft, _hard = resource.prlimit(made.pid, resource.RLIMIT_CPU)
        assert soft == 366 * 86_400
    finally:
        made.stop()
