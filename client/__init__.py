"""The relying parties' SDK: keys at rest, the key broker, owner's and buyer's flows.

What a party decides is decided here, on its own machine, from documents that it can check itself.
"""

from client.account import CheckedReceipt, StatementError, as_beancount, as_csv, statement
from client.aside import Finished, Stepped, StoppedError, iterating, stepping
from client.broker import Broker, open_incarnation
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
from client.dry_run import Appraisal, Outcome, Preview, Seated, Would, appraise_job, preview_offer
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
