"""Tokens, ids and ends of replies, as each of the three shapes writes them."""

from __future__ import annotations

import secrets

from trust.serving import Finish, FinishReason


def new_id(prefix: str) -> str:
    """A name that nothing can be read from."""
    return f"{prefix}{secrets.token_hex(16)}"


def chat_usage(finish: Finish) -> dict[str, object]:
    """Of chat and completions; counted by the enclave."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def response_usage(finish: Finish) -> dict[str, object]:
    """Of responses; counted by the enclave, which caches no prompt and hides no reasoning."""
    return {
        "input_tokens": finish.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": finish.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def finish_reason(finish: Finish) -> str:
    """``stop`` or ``length``; an error has no reason, but an answer of its own."""
    assert finish.reason is not FinishReason.ERROR
    return finish.reason.value
