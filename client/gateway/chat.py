"""``POST /v1/chat/completions``: messages in, one message out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from client.gateway.asked import (
    IGNORED,
    Fields,
    Question,
    check_count,
    fields,
    items,
    missing,
    sampling,
    text_parts,
)
from client.gateway.errors import ApiError, wrong
from client.gateway.streams import event
from client.gateway.usage import chat_usage, finish_reason, new_id
from trust.serving import ChatMessage, Finish, Role

DONE: Final = b"data: [DONE]\n\n"
ROLES: Final[Mapping[str, Role]] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_PARTS: Final = frozenset({"text"})


def parse_chat(body: Fields) -> Question:
    """Take every field. Raises ApiError for the first that is wrong, or not done here."""
    model = body.text("model")
    if model is None:
        raise missing("model")
    messages = parse_messages(body.take("messages"), "messages", _PARTS)
    how = sampling(body, "max_completion_tokens", "max_tokens")
    is_stream = body.flag("stream")
    has_usage = take_stream_options(body, is_stream=is_stream)
    body.only("n", 1)
    body.off("logprobs")
    body.only("top_logprobs", 0)
    body.only("logit_bias", {})
    body.only("tools", [])
    body.only("functions", [])
    body.only("tool_choice", "none", "auto")
    body.only("response_format", {"type": "text"})
    body.only("modalities", ["text"])
    body.off("store")
    body.only("service_tier", "auto", "default")
    body.zero("presence_penalty")
    body.zero("frequency_penalty")
    body.take("metadata")  # kept with stored replies elsewhere; nothing is stored here
    body.end(IGNORED)
    return Question(
        model=model,
        messages=messages,
        prompt=None,
        how=how,
        is_stream=is_stream,
        has_usage=has_usage,
        extras={},
    )


def parse_messages(value: object, where: str, parts: frozenset[str]) -> tuple[ChatMessage, ...]:
    """A list of messages, each of a role and text. ``developer`` is what ``system`` was called."""
    if value is None:
        raise missing(where)
    listed = items(value, where)
    check_count(listed, where)
    return tuple(_message(each, f"{where}[{index}]", parts) for index, each in enumerate(listed))


def _message(value: object, where: str, parts: frozenset[str]) -> ChatMessage:
    message = fields(value, where)
    message.only("type", "message")
    role = message.text("role")
    if role is None:
        raise missing(f"{where}.role")
    if role not in ROLES:
        raise wrong(f"{where}.role", f"the role is one of {', '.join(ROLES)}")
    content = message.take("content")
    if content is None:
        raise missing(f"{where}.content")
    text = text_parts(content, f"{where}.content", parts)
    message.only("tool_calls", [])
    message.only("annotations", [])
    message.end(frozenset({"id", "status", "phase"}))  # of a reply that comes back as a message
    return ChatMessage(role=ROLES[role], content=text)


def take_stream_options(body: Fields, *, is_stream: bool) -> bool:
    """Whether usage is wanted at a stream's end."""
    options = body.take("stream_options")
    if options is None:
        return False
    if not is_stream:
        raise wrong("stream_options", "stream_options is for streams")
    said = fields(options, "stream_options")
    has_usage = said.flag("include_usage")
    said.flag("include_obfuscation")  # what leaves for the network is padded by the enclave
    said.end()
    return has_usage


@dataclasses.dataclass(kw_only=True, slots=True)
class ChatWriter:
    """A reply as a chat completion, whole or in chunks."""

    question: Question
    created: int
    """Unix seconds."""
    id: str = dataclasses.field(default_factory=lambda: new_id("chatcmpl-"))

    def whole(self, text: str, finish: Finish) -> Mapping[str, object]:
        """The completion."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish_reason(finish),
        }
        return self._head("chat.completion") | {"choices": [choice], "usage": chat_usage(finish)}

    def begin(self) -> Sequence[bytes]:
        """The role."""
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def more(self, text: str) -> Sequence[bytes]:
        """Some text."""
        return [self._chunk({"content": text}, None)]

    def end(self, finish: Finish) -> Sequence[bytes]:
        """The reason, the usage if it was asked for, and the mark without which it was cut off."""
        events = [self._chunk({}, finish_reason(finish))]
        if self.question.has_usage:
            last = {"choices": [], "usage": chat_usage(finish)}
            events.append(event(self._head("chat.completion.chunk") | last))
        return [*events, DONE]

    def broken(self, error: ApiError) -> bytes:
        """The error."""
        return event(error.body())

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.question.model,
        }

    def _chunk(self, delta: Mapping[str, object], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        value = self._head("chat.completion.chunk") | {"choices": [choice]}
        return event(value | ({"usage": None} if self.question.has_usage else {}))
