"""``POST /v1/responses``: text in, text out. Nothing is stored, so nothing is referred to."""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Mapping, Sequence
from typing import Final

from client.gateway.asked import (
    IGNORED,
    Fields,
    Question,
    fields,
    missing,
    plain_text,
    sampling,
)
from client.gateway.chat import parse_messages, take_stream_options
from client.gateway.errors import ApiError, wrong
from client.gateway.streams import event
from client.gateway.usage import new_id, response_usage
from trust.serving import MESSAGES_MAX, ChatMessage, Finish, FinishReason, Role

_PARTS: Final = frozenset({"input_text", "output_text"})
METADATA_MAX: Final = 16  # OpenAI's own limits
METADATA_KEY_MAX: Final = 64
METADATA_TEXT_MAX: Final = 512


def parse_response(body: Fields) -> Question:
    """Take every field. Raises ApiError for the first that is wrong, or not done here."""
    model = body.text("model")
    if model is None:
        raise missing("model")
    instructions = body.text("instructions")
    messages = _input(body.take("input"), instructions)
    how = sampling(body, "max_output_tokens")
    is_stream = body.flag("stream")
    take_stream_options(body, is_stream=is_stream)
    metadata = _metadata(body.take("metadata"))
    body.off("store")
    body.off("background")
    body.only("tools", [])
    body.only("tool_choice", "none", "auto")
    body.only("include", [])
    body.only("truncation", "disabled")
    body.only("text", {"format": {"type": "text"}}, {})
    body.only("top_logprobs", 0)
    body.only("service_tier", "auto", "default")
    body.end(IGNORED)
    return Question(
        model=model,
        messages=messages,
        prompt=None,
        how=how,
        is_stream=is_stream,
        has_usage=False,
        extras={"instructions": instructions, "metadata": metadata},
    )


def _input(value: object, instructions: str | None) -> tuple[ChatMessage, ...]:
    if value is None:
        raise missing("input")
    if isinstance(value, str):
        asked: tuple[ChatMessage, ...] = (
            ChatMessage(role=Role.USER, content=plain_text(value, "input")),
        )
    else:
        asked = parse_messages(value, "input", _PARTS)
    if instructions is not None:
        asked = (ChatMessage(role=Role.SYSTEM, content=instructions), *asked)
    if len(asked) > MESSAGES_MAX:
        raise wrong("input", f"input and instructions are over {MESSAGES_MAX} messages")
    return asked


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    said = fields(value, "metadata")
    assert isinstance(value, dict)
    if len(value) > METADATA_MAX:
        raise wrong("metadata", f"metadata has at most {METADATA_MAX} fields")
    found = {}
    for name in value:
        text = said.text(name)
        if text is None or len(text) > METADATA_TEXT_MAX or len(name) > METADATA_KEY_MAX:
            raise wrong("metadata", "metadata is short strings by short names")
        found[name] = text
    return found


@dataclasses.dataclass(kw_only=True, slots=True)
class ResponseWriter:
    """A reply as a response, whole or as events."""

    question: Question
    created: int
    """Unix seconds."""
    id: str = dataclasses.field(default_factory=lambda: new_id("resp_"))
    item: str = dataclasses.field(default_factory=lambda: new_id("msg_"))
    _texts: list[str] = dataclasses.field(default_factory=list)
    _number: int = 0

    def whole(self, text: str, finish: Finish) -> Mapping[str, object]:
        """The response."""
        is_whole = finish.reason is FinishReason.STOP
        status = "completed" if is_whole else "incomplete"
        return self._response(status) | {
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": [self._item(status, [_part(text)])],
            "usage": response_usage(finish),
        }

    def begin(self) -> Sequence[bytes]:
        """The response, its one item, and that item's one part, all empty."""
        running = self._response("in_progress")
        return [
            self._event("created", {"response": running}),
            self._event("in_progress", {"response": running}),
            self._event(
                "output_item.added", {"output_index": 0, "item": self._item("in_progress", [])}
            ),
            self._event("content_part.added", self._place() | {"part": _part("")}),
        ]

    def more(self, text: str) -> Sequence[bytes]:
        """Some text."""
        self._texts.append(text)
        return [self._event("output_text.delta", self._place() | {"delta": text, "logprobs": []})]

    def end(self, finish: Finish) -> Sequence[bytes]:
        """The same again from the inside out, now full."""
        text = "".join(self._texts)
        whole = self.whole(text, finish)
        status = str(whole["status"])
        return [
            self._event("output_text.done", self._place() | {"text": text, "logprobs": []}),
            self._event("content_part.done", self._place() | {"part": _part(text)}),
            self._event(
                "output_item.done",
                {"output_index": 0, "item": self._item(status, [_part(text)])},
            ),
            self._event(status, {"response": whole}),
        ]

    def broken(self, error: ApiError) -> bytes:
        """The error, both as this shape's own event and as every client looks for it."""
        self._number += 1
        value = {
            "type": "error",
            "sequence_number": self._number - 1,
            "code": error.code,
            "message": error.text,
            "param": error.param,
        }
        return event(value | error.body(), "error")

    def _event(self, kind: str, value: Mapping[str, object]) -> bytes:
        name = f"response.{kind}"
        self._number += 1
        return event({"type": name, "sequence_number": self._number - 1} | dict(value), name)

    def _place(self) -> dict[str, object]:
        return {"item_id": self.item, "output_index": 0, "content_index": 0}

    def _item(self, status: str, content: Sequence[object]) -> dict[str, object]:
        return {
            "id": self.item,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(content),
        }

    def _response(self, status: str) -> dict[str, object]:
        how = self.question.how
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.question.model,
            "error": None,
            "incomplete_details": None,
            "instructions": self.question.extras["instructions"],
            "metadata": self.question.extras["metadata"],
            "max_output_tokens": how.tokens_max,
            "temperature": _number(how.temperature),
            "top_p": _number(how.top_p),
            "tools": [],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "text": {"format": {"type": "text"}},
            "output": [],
            "usage": None,
        }


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _number(text: str) -> float:
    """For the client on this machine alone: on the wire it is the decimal."""
    return float(decimal.Decimal(text))
