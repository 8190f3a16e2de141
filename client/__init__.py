"""The relying parties' SDK: keys at rest, the key broker, owner's and buyer's flows.

What a party decides is decided here, on its own machine, from documents that it can check itself.
"""

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
from client.files import HomeError
from client.home import Config, Home
from client.keystore import KeyFile, Keystore, KeystoreError, Passphrase
from client.market_api import MarketAddress, MarketApi, MarketRefusedError, MarketUnreachableError
from client.market_port import HttpMarket
from client.owner import seal_model, sign_terms, sign_use_policy
from client.release_log import HeadPlace, ReleaseLog, ReleaseLogError
from client.sealed import seal_file, upload

__all__ = [
    "Broker",
    "Config",
    "Follower",
    "HeadPlace",
    "Home",
    "HomeError",
    "HttpMarket",
    "KeyFile",
    "Keystore",
    "KeystoreError",
    "MarketAddress",
    "MarketApi",
    "MarketRefusedError",
    "MarketUnreachableError",
    "Passphrase",
    "ReleaseLog",
    "ReleaseLogError",
    "RowError",
    "SealedRows",
    "check_receipts",
    "count_rows",
    "last_receipt",
    "open_incarnation",
    "outputs",
    "seal_dataset",
    "seal_file",
    "seal_model",
    "sign_job",
    "sign_terms",
    "sign_use_policy",
    "upload",
]
