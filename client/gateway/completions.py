"""``POST /v1/completions``: bare text in, what follows it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from client.gateway.asked import IGNORED, Fields, Question, missing, plain_text, sampling
from client.gateway.chat import DONE, take_stream_options
from client.gateway.errors import ApiError, unsupported
from client.gateway.streams import event
from client.gateway.usage import chat_usage, finish_reason, new_id
from trust.serving import Finish


def parse_completion(body: Fields) -> Question:
    """Take every field. Raises ApiError for the first that is wrong, or not done here."""
    model = body.text("model")
    if model is None:
        raise missing("model")
    prompt = _prompt(body.take("prompt"))
    how = sampling(body, "max_tokens")
    is_stream = body.flag("stream")
    has_usage = take_stream_options(body, is_stream=is_stream)
    body.only("n", 1)
    body.only("best_of", 1)
    body.off("echo")
    body.only("suffix", "")
    body.only("logit_bias", {})
    body.zero("presence_penalty")
    body.zero("frequency_penalty")
    body.end(IGNORED)
    return Question(
        model=model,
        messages=None,
        prompt=prompt,
        how=how,
        is_stream=is_stream,
        has_usage=has_usage,
        extras={},
    )


def _prompt(value: object) -> str:
    if value is None:
        raise missing("prompt")
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise unsupported("prompt", "prompt is one string here, or a list of one")
        value = value[0]
    return plain_text(value, "prompt")


@dataclasses.dataclass(kw_only=True, slots=True)
class CompletionWriter:
    """A reply as a text completion, whole or in chunks."""

    question: Question
    created: int
    """Unix seconds."""
    id: str = dataclasses.field(default_factory=lambda: new_id("cmpl-"))

    def whole(self, text: str, finish: Finish) -> Mapping[str, object]:
        """The completion."""
        return self._text(text, finish_reason(finish)) | {"usage": chat_usage(finish)}

    def begin(self) -> Sequence[bytes]:
        """Nothing."""
        return ()

    def more(self, text: str) -> Sequence[bytes]:
        """Some text."""
        return [self._chunk(text, None)]

    def end(self, finish: Finish) -> Sequence[bytes]:
        """The reason, the usage if it was asked for, and the mark without which it was cut off."""
        events = [self._chunk("", finish_reason(finish))]
        if self.question.has_usage:
            last = self._text("", None) | {"choices": [], "usage": chat_usage(finish)}
            events.append(event(last))
        return [*events, DONE]

    def broken(self, error: ApiError) -> bytes:
        """The error."""
        return event(error.body())

    def _text(self, text: str, reason: str | None) -> dict[str, object]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.question.model,
            "choices": [choice],
        }

    def _chunk(self, text: str, reason: str | None) -> bytes:
        usage = {"usage": None} if self.question.has_usage else {}
        return event(self._text(text, reason) | usage)
