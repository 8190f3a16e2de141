"""From a configured base and a client's wishes to a job manifest, with nothing left to chance.

- Decimals are exact: what a rate and its multiplier make is written out whole, or refused.
- What is filled in here (`client.gateway.config.FILLED`) is nobody else's to say; nor is `kind`.
- Whatever does not make a whole manifest is refused with the field's name.
"""

from __future__ import annotations

import decimal
import secrets
from collections.abc import Mapping
from typing import Final, cast

from client.gateway.config import FILLED, BaseModel
from client.gateway.ports import TuneRequest
from client.keystore import Keystore
from client.tuning_store import FileRecord
from trust.encoding import Json, base64url
from trust.errors import EncodingError, RefusedError
from trust.jobs import Input, InputRole, JobManifest

DAY_MILLISECONDS: Final = 86_400_000
MULTIPLIER: Final = "learning_rate_multiplier"
"""Besides a recipe's own fields: the configured rate times this. A decimal in a string."""
_REFUSED: Final = (FILLED - {"expires_at"}) | {"kind", "recipe"}


def job_manifest(
    base: BaseModel,
    request: TuneRequest,
    keys: Keystore,
    *,
    training: FileRecord,
    heldout: FileRecord | None,
    terms: bytes,
    now: int,
) -> JobManifest:
    """The manifest of one submission, under a fresh nonce.

    (1) The request replaces fields of recipe and manifest that are its own to say. (2) With
    held-out rows the configured evaluation stays; without them there is none. (3) The rest is
    filled in: parties, inputs, images, terms, rows; it ends a day from now unless the request says.

    Raises RefusedError (*malformed*, *no-evaluation*).
    """
    fields = _merged(base.job, request.manifest)  # (1)
    if refused := sorted(set(request.manifest) & _REFUSED):
        raise RefusedError("malformed", f"manifest: {refused[0]} is not the request's to say")
    recipe = merged_recipe(base.recipe, request.recipe)
    inputs = [(InputRole.MODEL, base.model), (InputRole.DATASET, training.artifact)]
    if heldout is None:  # (2)
        recipe["evaluation"] = None
    elif recipe.get("evaluation") is None:
        text = f"{base.name} is configured without an evaluation, so held-out rows have no use"
        raise RefusedError("no-evaluation", text)
    else:
        inputs.append((InputRole.HELDOUT, heldout.artifact))
    whole: dict[str, Json] = {  # (3)
        "expires_at": now + DAY_MILLISECONDS,
        **fields,
        "recipe": recipe,
        "version": 1,
        "nonce": base64url(secrets.token_bytes(32)),
        "buyer": base64url(keys.party.identity),
        "progress_key": base64url(keys.progress.public),
        "inputs": [Input(role=role, artifact=artifact).to_json() for role, artifact in inputs],
        "terms": base64url(terms),
        "rows": training.rows,
        "images": [base64url(each) for each in base.images],
        "client_keys": [],
    }
    try:
        return JobManifest.from_json(whole, where="job")
    except EncodingError as error:
        raise RefusedError("malformed", str(error)) from error


def merged_recipe(base: Mapping[str, Json], asked: Mapping[str, object]) -> dict[str, Json]:
    """The base's recipe with what was asked in its place.

    Who asks for epochs asks for no steps, and the other way round, unless both are said.
    """
    changes = _plain(asked)
    multiplier = changes.pop(MULTIPLIER, None)
    if multiplier is not None:
        if "learning_rate" in changes:
            text = "recipe: a learning rate and a multiplier of the configured one"
            raise RefusedError("malformed", text)
        changes["learning_rate"] = multiplied(str(base["learning_rate"]), multiplier)
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if changes.get(one) is not None and other not in changes:
            changes[other] = None
    return _merged(base, changes)


def multiplied(rate: str, multiplier: Json) -> str:
    """An exact product of two decimals, without an exponent or trailing zeros.

    Raises RefusedError (*malformed*) if `multiplier` is no positive decimal. Whether the product
    has too many digits for a recipe, its parser says.
    """
    try:
        factor = decimal.Decimal(multiplier) if isinstance(multiplier, str) else None
    except decimal.InvalidOperation:
        factor = None
    if factor is None or not factor.is_finite() or factor <= 0 or len(str(multiplier)) > 32:
        raise RefusedError("malformed", f"recipe: {MULTIPLIER} is a positive decimal in a string")
    with decimal.localcontext(prec=80):  # two of at most 32 digits
        product = f"{decimal.Decimal(rate) * factor:f}"
    return product.rstrip("0").rstrip(".") if "." in product else product


def _merged(base: Mapping[str, Json], asked: Mapping[str, object]) -> dict[str, Json]:
    """Fields with others in their place; of an object (a bid, say) only those that are said."""
    merged = dict(base)
    for name, value in _plain(asked).items():
        before = merged.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[name] = {**before, **value}
        else:
            merged[name] = value
    return merged


def _plain(fields: Mapping[str, object]) -> dict[str, Json]:
    """Fields as they came; what is no JSON value of ours, the manifest's parser refuses."""
    return dict(cast("Mapping[str, Json]", fields))
