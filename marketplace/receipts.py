"""What can be wrong with a receipt, and which receipt may follow which.

    ReceiptError
    ├── UnknownKeyError       signed by a key that the market verified no evidence for
    ├── WrongLeaseError       names another job, generation or rank, or a lease that has ended
    ├── OldGenerationError    a newer generation has been ordered
    ├── ForkedError           another receipt has its number, or it links to another
    ├── DecreasingError       a cumulative count fell
    ├── WrongCountError       counts that a job of this kind cannot have
    ├── SupersededError       a later receipt is here already
    └── AfterEndError         the run has ended

Nothing of a refused receipt is stored, and none is counted.
"""

from __future__ import annotations

from typing import ClassVar, Final

from marketplace import models
from trust.encoding import base64url
from trust.errors import RefusedError
from trust.messages import Receipt

SERVED_TOKENS_UNIT: Final = 1 << 16  # what a serve job's receipts are rounded up to


class ReceiptError(RefusedError):
    """Base of what is wrong with a receipt. Nothing of it was stored."""

    CODE: ClassVar[str] = "receipt"

    def __init__(self, text: str) -> None:
        super().__init__(self.CODE, text)


class UnknownKeyError(ReceiptError):
    """Signed by a key that this market verified no evidence for, or for another lease."""

    CODE = "receipt-unknown-key"


class WrongLeaseError(ReceiptError):
    """It names another job, generation or rank than its lease has, or a lease that has ended."""

    CODE = "receipt-wrong-lease"


class OldGenerationError(ReceiptError):
    """A newer generation has been ordered: this one's receipts do not settle."""

    CODE = "receipt-old-generation"


class ForkedError(ReceiptError):
    """Another receipt has this number, or this one links to another than the one before it."""

    CODE = "receipt-forked"


class DecreasingError(ReceiptError):
    """A cumulative count fell."""

    CODE = "receipt-decreasing"


class WrongCountError(ReceiptError):
    """It counts what a job of this kind has not, or finer than such a job may show."""

    CODE = "receipt-wrong-count"


class SupersededError(ReceiptError):
    """A later receipt is here already, and says all that this one says."""

    CODE = "receipt-superseded"


class AfterEndError(ReceiptError):
    """The run has ended: its last receipt is here."""

    CODE = "receipt-after-end"


def check_counts(meter: models.Meter, receipt: Receipt) -> None:
    """Refuse a receipt of a serve job that counts steps, or tokens finer than 2¹⁶.

    A finer number would tell host and market how long one reply was (attacks.md, 9). None at all is
    a run that ended before it served.
    """
    if meter is not models.Meter.TOKENS:
        return
    if (receipt.first_step, receipt.step) != (0, 0):
        text = f"steps {receipt.first_step} to {receipt.step} of a job that has none"
        raise WrongCountError(f"receipt {receipt.number}: {text}")
    if receipt.tokens % SERVED_TOKENS_UNIT:
        text = f"{receipt.tokens} tokens, wanted a multiple of {SERVED_TOKENS_UNIT}"
        raise WrongCountError(f"receipt {receipt.number}: {text}")


def check_follows(last: models.Receipt | None, receipt: Receipt, digest: str) -> None:
    """Refuse a receipt that does not follow the newest one of its lease.

    (1) The first number, and no other, links to nothing. (2) Its number is above the newest's.
    (3) The next number links to the newest; after a gap the link is to one that never came. (4) No
    count falls, and the run still began where it began. (5) Nothing follows the end.
    """
    if (receipt.number == 1) != (receipt.before is None):  # (1)
        raise ForkedError(f"receipt {receipt.number}: wrong link to the one before")
    if last is None:
        return
    if receipt.number == last.number:  # (2)
        raise ForkedError(f"receipt {receipt.number} of {last.lease_id} is {last.digest}")
    if receipt.number < last.number:
        raise SupersededError(f"receipt {receipt.number}: number {last.number} is here")
    before = None if receipt.before is None else base64url(receipt.before)
    if receipt.number == last.number + 1 and before != last.digest:  # (3)
        raise ForkedError(f"receipt {receipt.number} links to {before}, not to {last.digest}")
    if before == digest or (receipt.number > last.number + 1 and before == last.digest):
        raise ForkedError(f"receipt {receipt.number} links to a receipt of another number")
    for name, found, least in (
        ("milliseconds", receipt.milliseconds, last.milliseconds),
        ("step", receipt.step, last.step),
        ("tokens", receipt.tokens, last.tokens),
    ):
        if found < least:  # (4)
            raise DecreasingError(f"receipt {receipt.number}: {name} fell from {least} to {found}")
    if receipt.first_step != last.first_step:
        text = f"the run began after step {last.first_step}, now {receipt.first_step}"
        raise DecreasingError(f"receipt {receipt.number}: {text}")
    if last.end is not None:  # (5)
        raise AfterEndError(f"receipt {receipt.number}: the run ended with {last.number}")
