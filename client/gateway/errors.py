"""Errors as OpenAI's clients read them: ``{"error": {message, type, param, code}}``.

The status decides whether a client asks again by itself (it does for 408, 409, 429 and 5xx, twice):
- What computed nothing and may be different soon is 429 or 503, with the time to wait.
- What will not be different soon has a wait beyond the client's own limit of 120 s: no retry.
- A refusal is 403, and a request that is wrong 400: neither is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from client.gateway.ports import CutOffError, NotFoundError, UnavailableError
from trust.errors import (
    BlindhostError,
    EncodingError,
    EvidenceError,
    RefusedError,
)
from trust.serving import Finish

UNAVAILABLE_SECONDS: Final = 2  # a model comes and goes with its lease: soon is soon enough
BUSY_MILLISECONDS: Final = 1000  # a slot is free when some reply has ended
SPENT_SECONDS: Final = 3600  # over 120 s a client does not ask again by itself
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(BlindhostError):
    """An answer that says no."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.code, self.text, self.param = status, code, text, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """As it stands in JSON."""
        kind = _TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        error = {"message": self.text, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> web.Response:
        """As an answer."""
        return web.Response(
            status=self.status,
            text=json.dumps(self.body()),
            content_type="application/json",
            headers=self.headers,
        )


def wrong(param: str | None, text: str, code: str = "invalid_value") -> ApiError:
    """A field of the request that cannot be meant."""
    return ApiError(400, code, text, param=param)


def unsupported(param: str, text: str = "") -> ApiError:
    """A field of the request that is understood, and not done here."""
    text = text or f"{param[:64]!r} is not supported here"
    return ApiError(400, "unsupported_parameter", text, param=param[:64])


def api_error(error: BlindhostError) -> ApiError:
    """The answer for an error of ours."""
    match error:
        case ApiError():
            return error
        case NotFoundError():
            return ApiError(404, "not_found", str(error))
        case UnavailableError():
            return ApiError(503, "unavailable", str(error), headers=_after(UNAVAILABLE_SECONDS))
        case CutOffError():
            return ApiError(502, "cut_off", str(error))
        case RefusedError():
            return ApiError(403, error.code, error.text)
        case EvidenceError():  # who cannot show what it is will not be asked again
            return ApiError(403, "evidence_refused", str(error))
        case EncodingError():
            return wrong(None, str(error))
        case _:
            return ApiError(502, "failed", str(error))


def generate_error(error: BlindhostError, model: str) -> ApiError:
    """Like `api_error`, where what was not found is a model."""
    if isinstance(error, NotFoundError):
        return no_model(model)
    return api_error(error)


def no_model(model: str) -> ApiError:
    """No enclave of ours has this model."""
    return ApiError(
        404, "model_not_found", f"the model {model[:128]!r} is not served here", param="model"
    )


def finish_error(finish: Finish, *, model: str, param: str) -> ApiError:
    """The answer for a reply that ended with ERROR. `param`: the field with the prompt."""
    text = finish.text or f"the enclave says {finish.code!r}"
    match finish.code:
        case "model-not-found":
            return no_model(model)
        case "too-long":
            return wrong(param, text, "context_length_exceeded")
        case "template":
            return wrong(param, text, "template")
        case "busy":
            waits = {"retry-after-ms": str(BUSY_MILLISECONDS)}
            return ApiError(429, "busy", text, headers=waits)
        case "out-of-tokens":
            return ApiError(429, "out_of_tokens", text, headers=_after(SPENT_SECONDS))
        case _:
            return ApiError(502, finish.code or "failed", text)


def _after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
