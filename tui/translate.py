"""From the client's typed values to facts. Pure: every text is cleaned here, on its way in.

A name is what a person gave; an id is hex. What client says in words is passed on, cleaned; nothing
is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import client
from client.account import kind_in_words
from client.consents import Consent, in_sentences
from client.custodians import OtherCustodian
from client.search import format_clause, miss_in_words
from client.text import LABEL_CHARACTERS_MAX, WORDS_CHARACTERS_MAX, clean
from tui import facts

VALUE_CHARACTERS_MAX: Final = 256  # of what a check found: a measurement has 96
_OUTCOMES: Final[Mapping[client.Outcome, facts.Verdict]] = {
    client.Outcome.PASSED: facts.Verdict.PASSED,
    client.Outcome.FAILED: facts.Verdict.FAILED,
    client.Outcome.NOT_CHECKED: facts.Verdict.NOT_CHECKED,
    client.Outcome.NOT_DEMANDED: facts.Verdict.NOT_DEMANDED,
}
_WOULD: Final[Mapping[client.Would, facts.Would]] = {
    client.Would.REFUSE: facts.Would.REFUSE,
    client.Would.UNKNOWN: facts.Would.UNKNOWN,
}
ENDED: Final = frozenset(
    {
        client.JobState.SUCCEEDED,
        client.JobState.FAILED,
        client.JobState.CANCELLED,
        client.JobState.EXHAUSTED,
    }
)


def label(text: str) -> str:
    """A name, cleaned."""
    return clean(text, limit=LABEL_CHARACTERS_MAX)


def words(text: str) -> str:
    """A sentence, cleaned."""
    return clean(text, limit=WORDS_CHARACTERS_MAX)


def failure(where: str, error: BaseException, now: int, retry_in: int | None) -> facts.Failure:
    """What went wrong, in words. An error of nobody's foresight says its type alone."""
    code = "error"
    text = type(error).__name__
    if isinstance(error, client.RefusedError):
        code, text = error.code, error.text
    elif isinstance(error, client.BlindhostError | OSError):
        code, text = type(error).__name__, str(error)
    return facts.Failure(
        as_of=now, where=where, code=label(code), words=words(text), retry_in=retry_in
    )


# --- home and balance ----------------------------------------------------------------------------


def setup(
    folder: str, market_url: str, market: bytes, view: client.HomeView, now: int
) -> facts.Setup:
    """An opened home."""
    broker = {True: "running", False: "not running here", None: "not known"}[view.broker_runs]
    return facts.Setup(
        as_of=now,
        home=words(folder),
        identity=view.identity.hex(),
        keys_made_at=view.keys_made_at,
        locked=False,
        backed_up=view.backed_up,
        market_url=words(market_url),
        market_identity=market.hex(),
        broker=broker if view.broker_ran else "never ran",
        models=tuple(
            facts.NamedModel(
                id=each.artifact.hex(),
                name=label(each.name or each.artifact.hex()[:16]),
                owner="" if each.owner is None else each.owner.hex(),
                mine=each.mine,
                tunable=True,
                words="your own" if each.mine else "its owner's terms hold",
            )
            for each in view.models
        ),
        data=tuple(
            facts.SealedData(
                id=artifact.hex(),
                name=label(artifact.hex()[:16] if named is None else named.name),
                rows=None if named is None else named.rows,
                bytes=padded if named is None or named.bytes is None else named.bytes,
                sealed_at=None if named is None else named.at,
            )
            for artifact, named, padded in view.data
        ),
        simulated=view.simulated,
    )


def closed_setup(
    folder: str, config: client.Config | None, *, locked: bool, now: int
) -> facts.Setup:
    """A home that is not open, or none at all."""
    return facts.Setup(
        as_of=now,
        home=words(folder),
        identity="",
        keys_made_at=None,
        locked=locked,
        backed_up=None,
        market_url="" if config is None else words(config.market_url),
        market_identity="" if config is None else config.market.hex(),
        broker="not known" if locked else "never ran",
        models=(),
        data=(),
        simulated=False,
    )


def balance(view: client.AccountView, burned: int, lasts: int | None, now: int) -> facts.Balance:
    """What is left, and until when."""
    return facts.Balance(
        as_of=now,
        free=view.available,
        held=view.held,
        pending=view.pending,
        payable=view.payable,
        empty_in=lasts,
        burn=burned,
    )


def key_state(view: client.HomeView, now: int) -> facts.KeyState:
    """The open keystore."""
    return facts.KeyState(
        as_of=now,
        epoch=max((each.epoch for each in view.entries), default=0),
        locked=False,
        backed_up=view.backed_up,
        lineages=tuple(
            f"{each.lineage.hex()} epoch {each.epoch},"
            f" {client.lineage_kind(each.lineage).name.lower()}"
            for each in view.entries
        ),
    )


def locked_keys(now: int) -> facts.KeyState:
    """A keystore that is not open: what it holds is not known."""
    return facts.KeyState(as_of=now, epoch=0, locked=True, backed_up=None, lineages=())


# --- offers --------------------------------------------------------------------------------------


def offer_page(
    query: str, sort: str, start: int, page: client.OfferPage, now: int
) -> facts.OfferPage:
    """Rows from `start` on."""
    return facts.OfferPage(
        as_of=now,
        query=query,
        sort=sort,
        total=page.total,
        listed=page.listed,
        start=start,
        rows=tuple(map(offer_row, page.offers)),
        version=str(page.version),
    )


def offer_row(view: client.OfferView) -> facts.OfferRow:
    """One offer."""
    draft = view.draft
    return facts.OfferRow(
        id=draft.offer,
        host=view.host.hex(),
        platform=label(draft.platform),
        compute_class=clean(draft.compute_class, limit=VALUE_CHARACTERS_MAX),
        gpu_model=label(draft.gpu_model),
        gpus=draft.gpus,
        memory_mib=draft.memory_mib,
        ask=draft.ask_microcredits_per_gpu_hour,
        floor=draft.floor_microcredits_per_gpu_hour,
        ends_at=draft.ends_at,
        state=view.state.value,
        words="",
    )


def funnel(
    query: str, clauses: tuple[client.Clause, ...], found: client.OfferFunnel, now: int
) -> facts.Funnel:
    """Why so few offers fit."""
    miss = found.nearest_miss
    return facts.Funnel(
        as_of=now,
        query=query,
        listed=found.listed,
        steps=tuple(
            facts.FunnelStep(
                clause=words(format_clause(each.clause)),
                left=each.left,
                looser="" if each.looser is None else words(format_clause(each.looser.clause)),
                gain=0 if each.looser is None else each.looser.gain,
                cheapest=None if each.looser is None else each.looser.cheapest,
            )
            for each in found.steps
        ),
        nearest_miss="" if miss is None else words(miss_in_words(miss, clauses, now)),
    )


def query_error(query: str, error: client.QueryError, now: int) -> facts.QueryError:
    """A query that can't be read."""
    return facts.QueryError(
        as_of=now,
        query=query,
        text=words(error.text),
        at=error.at,
        suggestion=label(error.suggestion),
    )


def preview(offer: str, found: client.Preview, now: int) -> facts.PolicyPreview:
    """Whether keys would be released to an offer."""
    return facts.PolicyPreview(
        as_of=now,
        offer=offer,
        custodian=found.custodian.hex(),
        would=_WOULD[found.would],
        check=words(f"{found.check}: {found.words}"),
    )


def dataset_check(path: str, found: client.DatasetCheck, now: int) -> facts.DatasetCheck:
    """How far a file has been checked."""
    return facts.DatasetCheck(
        as_of=now,
        path=path,
        done=found.done,
        rows=found.rows,
        bytes=found.bytes_done,
        bytes_total=found.bytes_total,
        longest=found.longest,
        faults=tuple(
            facts.RowFault(line=each.line, words=words(each.text)) for each in found.faults
        ),
        faults_total=found.faults_total,
    )


# --- trust ---------------------------------------------------------------------------------------


def attestation(found: client.Appraisal, was: str) -> facts.Attestation:
    """An appraisal made here."""
    headline = words(found.headline)
    return facts.Attestation(
        as_of=found.made_at,
        job=found.job.hex(),
        generation=found.generation,
        chip="" if found.chip is None else found.chip.hex(),
        platform=label(found.platform),
        image="" if found.image is None else found.image.hex(),
        policy="" if found.policy is None else found.policy.hex(),
        headline=headline,
        simulated=found.simulated,
        lines=tuple(
            facts.CheckLine(
                id=label(each.id),
                group=label(each.group),
                verdict=_OUTCOMES[each.outcome],
                found=clean(each.found, limit=VALUE_CHARACTERS_MAX),
                wanted=clean(each.wanted, limit=VALUE_CHARACTERS_MAX),
                words="",
            )
            for each in found.lines
        ),
        verified_at=found.made_at,
        was="" if was == headline else was,
    )


def release(seat: client.Seated, custodian: bytes, *, fenced: bool, now: int) -> facts.ReleaseEntry:
    """A release of one's own log, whose chain was checked when it was read."""
    chip = seat.released.chip_id
    return facts.ReleaseEntry(
        as_of=now,
        number=seat.entry.number,
        custodian=custodian.hex(),
        mine=True,
        at=seat.entry.at,
        artifact="",
        job=seat.statement.job.hex(),
        generation=seat.statement.generation,
        chip="" if chip is None else chip.hex(),
        policy=seat.released.policies[0].hex(),
        words=label(f"lease {seat.statement.lease}"),
        fenced=fenced,
        chain_holds=True,
    )


def others_head(other: OtherCustodian, job: str, now: int) -> facts.ReleaseEntry:
    """Another custodian's signed word of how far its log goes."""
    return facts.ReleaseEntry(
        as_of=now,
        number=other.entries or 0,
        custodian=other.identity.hex(),
        mine=False,
        at=other.said_at,
        artifact="",
        job=job,
        generation=0,
        chip="",
        policy="",
        words=words(other.words),
        fenced=False,
        chain_holds=True,
    )


def consent(
    found: Consent, mine: bytes, others: Sequence[tuple[bytes, str]], now: int
) -> facts.Consent:
    """A hand-over that may be allowed."""
    own = (mine.hex(), "yes" if found.mine else "no")
    return facts.Consent(
        as_of=now,
        id=found.id,
        what=f"adapter {found.adapter.hex()}",
        to=found.to.hex(),
        answers=(own, *((identity.hex(), label(said)) for identity, said in others)),
        sentences=tuple(map(words, in_sentences(found))),
        mine_to_answer=not found.mine,
    )


# --- money ---------------------------------------------------------------------------------------


def entry(each: client.StatementLine, now: int) -> facts.Entry:
    """One line of the statement."""
    sign = 1 if each.direction is client.Direction.IN else -1
    return facts.Entry(
        as_of=now,
        account="buyer",
        number=each.number,
        at=each.at,
        kind=label(each.kind),
        words=words(kind_in_words(each.kind)),
        amount=sign * each.amount,
        balance_after=each.balance,
        transfer=clean(each.transfer, limit=VALUE_CHARACTERS_MAX),
        job="",
    )


def receipt(job: str, each: client.CheckedReceipt, now: int) -> facts.ReceiptView:
    """A settled receipt, held against the own log."""
    said = each.receipt
    return facts.ReceiptView(
        as_of=now,
        id=each.digest.hex(),
        job=job,
        lease="" if said is None else said.lease,
        generation=0 if said is None else said.generation,
        number=0 if said is None else said.number,
        milliseconds=0 if said is None else said.milliseconds,
        steps=0 if said is None else said.step - said.first_step,
        tokens=0 if said is None else said.tokens,
        signer="" if each.signer is None else each.signer.hex(),
        holds=not each.fault,
        words=words(each.fault),
        host_amount=each.host_amount,
        owner_amount=each.owner_amount,
        fee_amount=each.fee_amount,
        state=each.state.value,
        matures_at=each.matures_at,
    )
