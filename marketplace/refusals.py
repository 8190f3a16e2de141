"""How the market says no: one error, with the code that goes on the wire.

Whoever raises one inside a transaction has changed nothing: the transaction ends with it.
"""

from __future__ import annotations

from typing import Final

from marketplace.wire import STATUS, ErrorCode, WireError
from trust.errors import BlindhostError, EncodingError, RefusedError, SizeLimitError

TEXT_BYTES_MAX: Final = 2048  # what a person reads; WireError.text takes 4096


class MarketError(RefusedError):
    """A request that the market does not fulfil, and why."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(code.value, text)
        self.error_code = code

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return STATUS[self.error_code]

    def to_wire(self) -> WireError:
        """The body of the answer."""
        return wire_error(self.error_code, self.text)


def wire_error(code: ErrorCode, text: str) -> WireError:
    """An error body; a text that is too long is cut, since it is for people."""
    cut = text.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore")
    return WireError(code=code, text=cut)


_BY_CODE: Final = {
    "exists-with-different-terms": ErrorCode.CONFLICT,
    "generations-used-up": ErrorCode.CONFLICT,
    "job-has-an-order": ErrorCode.CONFLICT,
    "job-not-placed": ErrorCode.CONFLICT,
    "job-not-queued": ErrorCode.CONFLICT,
    "job-unknown": ErrorCode.NOT_FOUND,
    "lease-ended": ErrorCode.CONFLICT,
    "lease-unknown": ErrorCode.NOT_FOUND,
    "no-generation": ErrorCode.CONFLICT,
    "no-such-transition": ErrorCode.CONFLICT,
    "not-disputed": ErrorCode.CONFLICT,
    "dispute-too-late": ErrorCode.CONFLICT,
    "offer-ended": ErrorCode.CONFLICT,
    "offer-is-leased": ErrorCode.CONFLICT,
    "offer-unknown": ErrorCode.NOT_FOUND,
    "order-unknown": ErrorCode.NOT_FOUND,
    "receipt-unknown": ErrorCode.NOT_FOUND,
    "stale-version": ErrorCode.CONFLICT,
    "wrong-buyer": ErrorCode.FORBIDDEN,
    "wrong-generation": ErrorCode.CONFLICT,
    "wrong-leases": ErrorCode.CONFLICT,
    "wrong-link": ErrorCode.CONFLICT,
    "wrong-signer": ErrorCode.FORBIDDEN,
}


def market_error(error: BlindhostError) -> MarketError:
    """What an error of ours becomes on the wire; a domain's own code stays in the text."""
    match error:
        case MarketError():
            return error
        case RefusedError():
            return MarketError(_BY_CODE.get(error.code, ErrorCode.REFUSED), str(error))
        case SizeLimitError():
            return MarketError(ErrorCode.TOO_LARGE, str(error))
        case EncodingError():
            return MarketError(ErrorCode.MALFORMED, str(error))
        case _:
            return MarketError(ErrorCode.REFUSED, str(error))
