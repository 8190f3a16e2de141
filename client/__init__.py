"""The relying parties' SDK: keys at rest, the key broker, owner's and buyer's flows.

What a party decides is decided here, on its own machine, from documents that it can check itself.

A name is imported when it is first used: who wants one of them, as the window's first picture does,
waits for no HTTP client and no parser of certificates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from client.account import CheckedReceipt, StatementError, as_beancount, as_csv, statement
    from client.aside import Finished, Stepped, StoppedError, iterating, stepping
    from client.broker import Broker, open_incarnation
    from client.browsing import Browser, Visitor
    from client.buyer import (
        Follower,
        SealedRows,
        check_receipts,
        last_receipt,
        outputs,
        seal_dataset,
        sign_job,
    )
    from client.dataset import RowError, count_rows
    from client.dataset_check import DatasetCheck, check_dataset
    from client.drafting import Prepared, Quote, TuneDraft
    from client.dry_run import (
        Appraisal,
        Outcome,
        Preview,
        Seated,
        Would,
        appraise_job,
        preview_offer,
    )
    from client.files import HomeError
    from client.home import Config, Home
    from client.home_view import HomeView
    from client.keystore import KeyFile, Keystore, KeystoreError, Passphrase
    from client.market_api import (
        MarketAddress,
        MarketApi,
        MarketRefusedError,
        MarketUnreachableError,
        UnauthenticatedAnswerError,
    )
    from client.market_port import HttpMarket
    from client.owner import seal_model, sign_terms, sign_use_policy
    from client.release_log import HeadPlace, ReleaseLog, ReleaseLogError
    from client.sealed import seal_file, upload
    from client.search import QueryError, parse_query
    from client.stages import Cost, Stage
    from client.story import StoryEvent
    from client.text import clean
    from client.transcript import open_transcript
    from client.watch import JobStanding, JobUpdate, watch_job, watch_jobs
    from client.window import Party
    from marketplace.wire import (
        AccountView,
        Clause,
        Direction,
        JobState,
        JobView,
        OfferFunnel,
        OfferNumber,
        OfferPage,
        OfferView,
        StatementLine,
    )
    from trust.custody import LineageKind, lineage_kind
    from trust.encoding import canonical_json, parse_hex
    from trust.errors import BlindhostError, EncodingError, RefusedError
    from trust.messages import Progress, ProgressEvent

__all__ = [
    "AccountView",
    "Appraisal",
    "BlindhostError",
    "Broker",
    "Browser",
    "CheckedReceipt",
    "Clause",
    "Config",
    "Cost",
    "DatasetCheck",
    "Direction",
    "EncodingError",
    "Finished",
    "Follower",
    "HeadPlace",
    "Home",
    "HomeError",
    "HomeView",
    "HttpMarket",
    "JobStanding",
    "JobState",
    "JobUpdate",
    "JobView",
    "KeyFile",
    "Keystore",
    "KeystoreError",
    "LineageKind",
    "MarketAddress",
    "MarketApi",
    "MarketRefusedError",
    "MarketUnreachableError",
    "OfferFunnel",
    "OfferNumber",
    "OfferPage",
    "OfferView",
    "Outcome",
    "Party",
    "Passphrase",
    "Prepared",
    "Preview",
    "Progress",
    "ProgressEvent",
    "QueryError",
    "Quote",
    "RefusedError",
    "ReleaseLog",
    "ReleaseLogError",
    "RowError",
    "SealedRows",
    "Seated",
    "Stage",
    "StatementError",
    "StatementLine",
    "Stepped",
    "StoppedError",
    "StoryEvent",
    "TuneDraft",
    "UnauthenticatedAnswerError",
    "Visitor",
    "Would",
    "appraise_job",
    "as_beancount",
    "as_csv",
    "canonical_json",
    "check_dataset",
    "check_receipts",
    "clean",
    "count_rows",
    "iterating",
    "last_receipt",
    "lineage_kind",
    "open_incarnation",
    "open_transcript",
    "outputs",
    "parse_hex",
    "parse_query",
    "preview_offer",
    "seal_dataset",
    "seal_file",
    "seal_model",
    "sign_job",
    "sign_terms",
    "sign_use_policy",
    "statement",
    "stepping",
    "upload",
    "watch_job",
    "watch_jobs",
]

_PLACES: Final = {
    "client.account": (
        "CheckedReceipt",
        "StatementError",
        "as_beancount",
        "as_csv",
        "statement",
    ),
    "client.aside": (
        "Finished",
        "Stepped",
        "StoppedError",
        "iterating",
        "stepping",
    ),
    "client.broker": (
        "Broker",
        "open_incarnation",
    ),
    "client.browsing": ("Browser", "Visitor"),
    "client.buyer": (
        "Follower",
        "SealedRows",
        "check_receipts",
        "last_receipt",
        "outputs",
        "seal_dataset",
        "sign_job",
    ),
    "client.dataset": (
        "RowError",
        "count_rows",
    ),
    "client.dataset_check": (
        "DatasetCheck",
        "check_dataset",
    ),
    "client.drafting": (
        "Prepared",
        "Quote",
        "TuneDraft",
    ),
    "client.dry_run": (
        "Appraisal",
        "Outcome",
        "Preview",
        "Seated",
        "Would",
        "appraise_job",
        "preview_offer",
    ),
    "client.files": ("HomeError",),
    "client.home": (
        "Config",
        "Home",
    ),
    "client.home_view": ("HomeView",),
    "client.keystore": (
        "KeyFile",
        "Keystore",
        "KeystoreError",
        "Passphrase",
    ),
    "client.market_api": (
        "MarketAddress",
        "MarketApi",
        "MarketRefusedError",
        "MarketUnreachableError",
        "UnauthenticatedAnswerError",
    ),
    "client.market_port": ("HttpMarket",),
    "client.owner": (
        "seal_model",
        "sign_terms",
        "sign_use_policy",
    ),
    "client.release_log": (
        "HeadPlace",
        "ReleaseLog",
        "ReleaseLogError",
    ),
    "client.sealed": (
        "seal_file",
        "upload",
    ),
    "client.search": (
        "QueryError",
        "parse_query",
    ),
    "client.stages": (
        "Cost",
        "Stage",
    ),
    "client.story": ("StoryEvent",),
    "client.text": ("clean",),
    "client.transcript": ("open_transcript",),
    "client.watch": (
        "JobStanding",
        "JobUpdate",
        "watch_job",
        "watch_jobs",
    ),
    "client.window": ("Party",),
    "marketplace.wire": (
        "AccountView",
        "Clause",
        "Direction",
        "JobState",
        "JobView",
        "OfferFunnel",
        "OfferNumber",
        "OfferPage",
        "OfferView",
        "StatementLine",
    ),
    "trust.custody": (
        "LineageKind",
        "lineage_kind",
    ),
    "trust.encoding": (
        "canonical_json",
        "parse_hex",
    ),
    "trust.errors": (
        "BlindhostError",
        "EncodingError",
        "RefusedError",
    ),
    "trust.messages": (
        "Progress",
        "ProgressEvent",
    ),
}
"""Each module, and what of it is public here."""
_MODULE_OF: Final = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, when it is first used. Raises AttributeError for any other."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
