"""Well-formed lies in TDX evidence: each is signed by whoever an attacker can be, and each is
refused by exactly the check that stands beside it.

The golden vectors are built from this list (tests/vectors/evidence), so every lie is a function of
the good case, with keys and times that never change.
"""

from __future__ import annotations

from tests.trust.verifier import tdx_lies_judged, tdx_lies_signed
from tests.trust.verifier.tdx_changes import Lie

LIES: tuple[Lie, ...] = (*tdx_lies_signed.LIES, *tdx_lies_judged.LIES)
FORMAT = tdx_lies_signed.FORMAT
