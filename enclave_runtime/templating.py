"""A chat row as token ids, under a template and a tokenizer that the model's owner wrote.

Runs in the confined child alone (tokens.py). A row is exactly ``{"messages": [{"role", "content"},
…]}`` with the roles of `ROLES`; what else it may be is an error, never skipped.

Which tokens are supervised is marked by the template: ``{% generation %} … {% endgeneration %}``
(transformers' convention). The tag leaves two noncharacters of Unicode (§23.7: "intended for
internal use") around its text; a row that contains one is refused.
"""

from __future__ import annotations

import array
import codecs
import json
from typing import Any, Final, NoReturn

import jinja2
import jinja2.debug
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
from tokenizers import Tokenizer

from enclave_runtime.rows import Row
from trust.encoding import Json, parse_json
from trust.errors import BlindhostError, DocumentError, RefusedError
from trust.jobs import LossOn
from trust.model_files import ModelFiles

codecs.lookup("unicode_escape")  # jinja2's lexer needs it, and the confined child opens no file

ROLES: Final = ("system", "user", "assistant")
MESSAGES_MAX: Final = 1024
OPENING, CLOSING = "\ufdd0", "\ufdd1"


class _Generation(jinja2.ext.Extension):
    """Marks what stands between ``{% generation %}`` and ``{% endgeneration %}``."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked")
        block = jinja2.nodes.CallBlock(call, [], [], body)
        block.set_lineno(line)
        return block

    def _marked(self, caller: jinja2.runtime.Macro) -> str:
        return f"{OPENING}{caller()}{CLOSING}"


class Templater:
    """One template and one tokenizer. Raises RefusedError where they cannot serve `loss_on`."""

    def __init__(self, files: ModelFiles, *, loss_on: LossOn, length_max: int) -> None:
        self._tokenizer = Tokenizer.from_str(files.tokenizer)
        self._special = dict(files.special_tokens)
        self._loss_on, self._length_max = loss_on, length_max
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        del environment.filters["random"], environment.globals["lipsum"]  # one row, one text
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = _tojson
        try:
            self._template = environment.from_string(files.template)
            marked = any(
                kind == "name" and text == "generation"
                for _line, kind, text in environment.lex(files.template)
            )
        except jinja2.TemplateError as error:
            raise RefusedError("template", f"chat template: {error}"[:300]) from error
        if loss_on is LossOn.ASSISTANT and not marked:
            raise RefusedError(
                "template",
                "the chat template has no {% generation %} marker, and the loss is on the "
                "assistant's turns alone; loss_on=all takes every token",
            )

    def row(self, line: bytes) -> Row:
        """One row to train or score on."""
        text, spans = self._render(_messages(line), prompt=False)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        supervised = bytearray(len(encoding.ids))
        if self._loss_on is LossOn.ALL:
            supervised = bytearray(b"\x01" * len(encoding.ids))
        for start, end in spans if self._loss_on is LossOn.ASSISTANT else ():
            # A span is one run of tokens; offsets are trimmed, so a token may be only a space.
            inside = [i for i, (a, b) in enumerate(encoding.offsets) if max(a, start) < min(b, end)]
            if inside:
                supervised[inside[0] : inside[-1] + 1] = b"\x01" * (inside[-1] + 1 - inside[0])
        supervised[:1] = b"\x00" * len(supervised[:1])
        if not any(supervised):
            raise DocumentError("no token of it is supervised: there is nothing to learn from")
        self._check_length(len(encoding.ids))
        return Row(ids=array.array("I", encoding.ids).tobytes(), supervised=bytes(supervised))

    def prompt(self, line: bytes) -> tuple[Row, str]:
        """What stands before a row's last reply, with the assistant's turn begun; the reply."""
        messages = _messages(line)
        if messages[-1]["role"] != "assistant":
            raise DocumentError("the last message is not the assistant's: there is no reference")
        text, _spans = self._render(messages[:-1], prompt=True)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        self._check_length(len(ids))
        row = Row(ids=array.array("I", ids).tobytes(), supervised=bytes(len(ids)))
        return row, messages[-1]["content"]

    def ask(self, text: bytes, *, chat: bool) -> bytes:
        """u32 ids of a chat with the assistant's turn begun, or of bare text; cut above the length.

        Chat: a row's JSON. Bare text gets the special tokens that the tokenizer puts around one.
        """
        if chat:
            rendered, _spans = self._render(_messages(text), prompt=True)
            ids = self._tokenizer.encode(rendered, add_special_tokens=False).ids
        else:
            ids = self._tokenizer.encode(text.decode("utf-8"), add_special_tokens=True).ids
        if not ids:
            raise DocumentError("a prompt without a token")
        return array.array("I", ids[: self._length_max + 1]).tobytes()

    def decode(self, ids: bytes) -> str:
        """The text of u32 token ids, special tokens included."""
        text: str = self._tokenizer.decode(
            array.array("I", ids).tolist(), skip_special_tokens=False
        )
        return text

    def _check_length(self, tokens: int) -> None:
        if not 1 <= tokens <= self._length_max:
            raise DocumentError(f"{tokens} tokens; length_max is {self._length_max}")

    def _render(
        self, messages: list[dict[str, str]], *, prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """Text without marks, and the spans that were marked, in characters."""
        try:
            marked = self._template.render(
                messages=messages, add_generation_prompt=prompt, **self._special
            )
        except jinja2.TemplateError as error:
            raise DocumentError(f"chat template: {type(error).__name__}: {error}"[:300]) from error
        parts, spans, length, opened = [], [], 0, False
        for index, part in enumerate(marked.replace(CLOSING, OPENING).split(OPENING)):
            opened = bool(index % 2)
            if opened:
                spans.append((length, length + len(part)))
            parts.append(part)
            length += len(part)
        marks = "".join(c for c in marked if c in {OPENING, CLOSING})
        if opened or marks != (OPENING + CLOSING) * len(spans):
            raise DocumentError("chat template: its generation marks are nested or cut off")
        return "".join(parts), spans


def _messages(line: bytes) -> list[dict[str, str]]:
    """Parse one line completely. Raises EncodingError or DocumentError."""
    value = parse_json(line)
    if not isinstance(value, dict) or set(value) != {"messages"}:
        keys = ", ".join(sorted(value))[:100] if isinstance(value, dict) else type(value).__name__
        raise DocumentError(f"an object with the key messages alone is wanted, got {keys or '{}'}")
    messages = value["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MESSAGES_MAX:
        raise DocumentError(f"messages is a list of 1 to {MESSAGES_MAX}")
    return [_message(index, each) for index, each in enumerate(messages)]


def _message(index: int, value: Json) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        raise DocumentError(f"message {index}: an object with role and content alone is wanted")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise DocumentError(f"message {index}: role is none of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DocumentError(f"message {index}: content is text, got {type(content).__name__}")
    if OPENING in content or CLOSING in content:
        raise DocumentError(f"message {index}: U+FDD0 and U+FDD1 are for internal use")
    if any("\ud800" <= c <= "\udfff" for c in content):
        raise DocumentError(f"message {index}: half a surrogate pair is no text")
    assert isinstance(role, str)
    return {"role": role, "content": content}


def _raise_exception(text: object) -> NoReturn:
    raise jinja2.TemplateError(str(text))


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def error_text(error: BaseException) -> str:
    """What a refusal says of an error; texts of others' code are left out, types are named."""
    if isinstance(error, BlindhostError):
        return str(error)
    return f"{type(error).__name__} in the tokenizer or template"
