"""What the checks of a TDX quote look at, put together once.

Rules:
- Nothing is judged here. The chain in the quote is read, as far as three certificates in PEM, and
  the levels that its versions reach are looked up.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from trust.errors import EvidenceFormatError
from trust.evidence.tdx import PckClaims, TdxQuote
from trust.verifier.certificates import Certificate, RevocationList
from trust.verifier.intel_certificates import parse_pck, pem_certificates
from trust.verifier.intel_collateral import Issued, TdxEndorsements
from trust.verifier.roots import PinnedRoot
from trust.verifier.tdx_tcb import Levels, reached_levels

PCK_CHAIN_LENGTH: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxSubject:
    """All that the checks look at."""

    quote: TdxQuote
    endorsements: TdxEndorsements
    leaf: Certificate
    authority: Certificate
    root: Certificate
    pck: PckClaims
    levels: Levels
    roots: tuple[PinnedRoot, ...]
    now: dt.datetime

    @property
    def issued(self) -> tuple[Issued, Issued]:
        """TCB info and identity of the quoting enclave."""
        return self.endorsements.tcb_info.issued, self.endorsements.qe_identity.issued

    @property
    def lists(self) -> tuple[RevocationList | None, RevocationList | None]:
        """The root's list and the authority's."""
        return self.endorsements.root_crl, self.endorsements.pck_crl

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """All that are believed: the quote's three, and the signers of collateral."""
        signers = (issued.signers[0] for issued in self.issued)
        return (self.leaf, self.authority, self.root, *signers)


def tdx_subject(
    quote: TdxQuote,
    endorsements: TdxEndorsements,
    roots: tuple[PinnedRoot, ...],
    now: dt.datetime,
) -> TdxSubject:
    """Read the chain in `quote`. Raises EvidenceFormatError or SizeLimitError for one that is none.

    `now` is an aware time.
    """
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    chain = pem_certificates(quote.pck_chain, "PCK chain")
    if len(chain) != PCK_CHAIN_LENGTH:
        raise EvidenceFormatError(
            f"PCK chain: {len(chain)} certificates, wanted {PCK_CHAIN_LENGTH}"
        )
    leaf, authority, root = chain
    pck = parse_pck(leaf)
    return TdxSubject(
        quote=quote,
        endorsements=endorsements,
        leaf=leaf,
        authority=authority,
        root=root,
        pck=pck,
        levels=reached_levels(
            endorsements.tcb_info, endorsements.qe_identity, pck, quote.body, quote.qe_report
        ),
        roots=roots,
        now=now,
    )
