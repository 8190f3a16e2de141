"""dcap-qvl's opinion of a quote, under the caller's root and at the caller's time.

Rules:
- The library is asked about bytes that our parsers have read already, and never for anything from a
  network. Whatever it raises is a refusal of its own, shown in printable ASCII.
- It says what it thinks, and decides nothing: `trust.verifier.tdx` compares it with our own checks.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import dcap_qvl

from trust.evidence.tdx import TcbStatus, TdxQuote
from trust.verifier.intel_collateral import TdxEndorsements

REFUSAL_CHARACTERS_MAX: Final = 200
_PANIC: Final = "PanicException"
# Its words for a guest that an older module started, where the module of today is good. The guest
# was measured by the older one: for us it is what the older one is.
_RELAUNCH: Final = {
    "TDRelaunchAdvised": TcbStatus.OUT_OF_DATE.value,
    "TDRelaunchAdvisedConfigurationNeeded": TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED.value,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondOpinion:
    """What it came to."""

    status: str
    """Empty where it refuses."""
    advisories: frozenset[str]
    refusal: str | None
    """Why it refuses; None: it accepts, with that status."""

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"dcap-qvl refuses: {self.refusal}"
        return f"{self.status}, advisories {', '.join(sorted(self.advisories)) or 'none'}"


def ask_dcap_qvl(
    quote: TdxQuote, endorsements: TdxEndorsements, root: bytes, now: dt.datetime
) -> SecondOpinion:
    """Verify `quote` with the root certificate `root` (DER) as the one that is believed."""
    if endorsements.root_crl is None or endorsements.pck_crl is None:
        return _refusal("it wants both revocation lists")
    tcb_info, qe_identity = endorsements.tcb_info.issued, endorsements.qe_identity.issued
    list_chain, tcb_chain, qe_chain = endorsements.pem
    try:
        collateral = dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=list_chain,
            root_ca_crl=endorsements.root_crl.encoded,
            pck_crl=endorsements.pck_crl.encoded,
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=tcb_info.body.decode("utf-8"),
            tcb_info_signature=tcb_info.signature,
            qe_identity_issuer_chain=qe_chain,
            qe_identity=qe_identity.body.decode("utf-8"),
            qe_identity_signature=qe_identity.signature,
        )
        report = dcap_qvl.verify_with_root_ca(quote.raw, collateral, root, int(now.timestamp()))
    except ValueError as error:
        return _refusal(str(error))
    except BaseException as error:
        # A panic of the library's Rust is no Exception: it is a refusal too, and ends no verifier.
        if type(error).__name__ != _PANIC:
            raise
        return _refusal(f"it panicked: {error}")
    status = str(report.status)
    return SecondOpinion(
        status=_RELAUNCH.get(status, status),
        advisories=frozenset(str(each) for each in report.advisory_ids),
        refusal=None,
    )


def _refusal(text: str) -> SecondOpinion:
    shown = ascii(text[:REFUSAL_CHARACTERS_MAX])[1:-1]
    return SecondOpinion(status="", advisories=frozenset(), refusal=shown)
