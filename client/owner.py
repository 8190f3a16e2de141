"""A model owner's acts: seal a model, and say under which terms and for whom it opens.

- What stands beside the weights is checked by the very rules of the enclave, before anything is
  sealed (trust/model_files.py): no pickle, no code, no unknown key, no second reading of a header.
- Terms and use policies are numbered: the next one's number is the last one's plus one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from client.sealed import Step, seal_file
from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.custody import lineage_kind
from trust.encoding import digest
from trust.errors import EncodingError, PolicyError
from trust.identity import Signed
from trust.jobs import Terms, UsePolicy
from trust.model_files import (
    HEADER_BYTES_MAX,
    TEMPLATE_NAME,
    WEIGHTS_NAME,
    check_model_files,
    check_model_folder_names,
    parse_safetensors_header,
)
from trust.release_checks import KINDS
from trust.verifier.policy import AppraisalPolicy

Numbered = TypeVar("Numbered", Terms, UsePolicy)
Own = Iterable[Signed[Terms]] | Iterable[Signed[UsePolicy]]


def seal_model(
    home: Home,
    keys: Keystore,
    folder: Path,
    custodian: Custodian,
    step: Step,
    *,
    own_template: bool = False,
) -> Signed[Manifest]:
    """Seal a model folder: its safetensors becomes ciphertext, the other files public.

    (1) The folder holds known files and nothing else. (2) Config, tokenizer and template keep the
    closed schemas; with `own_template` a template that no image knows, which jobs then have to
    name. (3) The safetensors header covers its file, once. (4) Seal.

    Raises DocumentError, EncodingError or SizeLimitError, naming file and fault.
    """
    names = check_model_folder_names(_names(folder))  # (1)
    files = {name: (folder / name).read_bytes() for name in names}
    accepted = digest(files[TEMPLATE_NAME]) if own_template and TEMPLATE_NAME in files else None
    check_model_files(files, template=accepted)  # (2)
    weights = folder / WEIGHTS_NAME
    check_safetensors(weights)  # (3)
    return seal_file(  # (4)
        home,
        keys,
        kind=ArtifactKind.WEIGHTS,
        custodian=custodian,
        path=weights,
        public_files=files,
        step=step,
    )


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise HomeError(f"{folder.name} is no folder")
    inside = [path for path in folder.iterdir() if path.name not in (".git", ".cache")]
    for path in inside:
        if path.is_dir() or path.is_symlink():
            raise EncodingError(f"model folder: {path.name} is no plain file")
    return [path.name for path in inside]


def check_safetensors(path: Path) -> None:
    """Check a safetensors file's header against its size. Raises EncodingError and its kin."""
    total = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = min(int.from_bytes(head, "little"), HEADER_BYTES_MAX)
        head += file.read(length)
    parse_safetensors_header(head, total)


def sign_terms(home: Home, keys: Keystore, terms: Terms) -> Signed[Terms]:
    """Sign and keep terms. Raises HomeError unless they are this owner's next ones."""
    own = home.load(Terms, keys.party.identity).values()
    _check_next("terms", terms.number, next_number(own, terms.lineages))
    if terms.owner != keys.party.identity:
        raise HomeError("these terms name another owner")
    if terms.screen is not None:
        raise HomeError("terms name a screen; screening does not exist yet")
    return _keep(home, keys, terms)


def sign_use_policy(
    home: Home, keys: Keystore, policy: UsePolicy, appraisal: AppraisalPolicy
) -> Signed[UsePolicy]:
    """Sign and keep a use policy, and the appraisal policy that it names.

    Raises HomeError unless it is this custodian's next one, and PolicyError if a lineage is real
    and the policy's roots are simulated, or the other way round.
    """
    own = home.load(UsePolicy, keys.party.identity).values()
    _check_next("use policy", policy.number, next_number(own, policy.lineages))
    if policy.custodian != keys.party.identity:
        raise HomeError("this use policy names another custodian")
    if policy.appraisal_policy != appraisal.digest:
        raise HomeError("the use policy names another appraisal policy")
    for lineage in policy.lineages:
        if KINDS[lineage_kind(lineage)] is not appraisal.kind:
            raise PolicyError(f"{appraisal.kind.value} roots for a lineage of the other kind")
    home.keep_appraisal(appraisal)
    return _keep(home, keys, policy)


def next_number(own: Own, lineages: Sequence[bytes]) -> int:
    """The number that a further document about any of these lineages has."""
    documents = [each.document for each in own]
    about = [each.number for each in documents if set(each.lineages) & set(lineages)]
    return max(about, default=0) + 1


def _check_next(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise HomeError(f"{what} {found}: the next number is {wanted}")


def _keep(home: Home, keys: Keystore, document: Numbered) -> Signed[Numbered]:
    signed = keys.party.sign(document)
    home.keep(signed)
    return signed
