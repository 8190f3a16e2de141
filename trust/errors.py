"""Every error that trust/ raises, in one tree. A leaf stands for one failing check.

    BlindhostError
    ├── EncodingError                 bytes or JSON that are not in canonical form
    │   ├── SizeLimitError            longer than the named maximum
    │   └── DocumentError             a document of the wrong label, field, type or value
    ├── SignatureError                a signature that does not verify, or by the wrong signer
    ├── SealingError
    │   ├── HpkeError                 a sealed secret that does not open under this key and info
    │   ├── WrongKeyError             the key's commitment is not the manifest's
    │   ├── WrongArtifactError        a segment list or core that belongs to another artifact
    │   ├── SegmentError              a segment whose bytes are not the listed ones, or do not open
    │   ├── TruncatedError            fewer bytes or segments than the manifest says
    │   └── PaddingError              padding that is not what the format prescribes
    ├── MerkleError                   a proof that does not lead to the root, or is malformed
    ├── CustodyError                  shares that do not fit a core, or a lineage of the wrong kind
    ├── EvidenceError
    │   ├── EvidenceFormatError       bytes that are no report, certificate or list
    │   ├── EvidenceSignatureError    a signature or chain that does not hold under the pinned roots
    │   └── PolicyError               a policy that does not load, or contradicts itself
    ├── SessionError                  a message out of order, replayed, or for somebody else
    └── RefusedError                  a custodian, the market or an enclave says no, and why

Texts say what was found and what was wanted, never a secret.
"""

from __future__ import annotations


class BlindhostError(Exception):
    """Base of all errors of ours. Its text is safe to show to anybody."""


class EncodingError(BlindhostError):
    """Bytes or JSON that are not in the one canonical form."""


class SizeLimitError(EncodingError):
    """Longer than the named maximum; raised before anything is parsed."""


class DocumentError(EncodingError):
    """A document with the wrong label, or a missing, unknown or ill-typed field."""


class SignatureError(BlindhostError):
    """A signature that does not verify, or that another party made."""


class SealingError(BlindhostError):
    """Base of what can go wrong between plaintext and ciphertext."""


class HpkeError(SealingError):
    """A sealed secret that does not open under this key and info."""


class WrongKeyError(SealingError):
    """The key's commitment is not the manifest's: the key is wrong, and the file may be good."""


class WrongArtifactError(SealingError):
    """A segment list, core or key that belongs to another artifact."""


class SegmentError(SealingError):
    """A segment whose bytes are not the listed ones, or that does not authenticate."""


class TruncatedError(SealingError):
    """Fewer bytes or segments than the manifest says."""


class PaddingError(SealingError):
    """A length or padding that the format does not allow."""


class CustodyError(BlindhostError):
    """Shares that do not fit a core, or a lineage of the wrong kind."""


class EvidenceError(BlindhostError):
    """Base of what can be wrong with evidence, endorsements and policies."""


class EvidenceFormatError(EvidenceError):
    """Bytes that are no report, certificate or revocation list of the kind that they claim."""


class EvidenceSignatureError(EvidenceError):
    """A signature or a chain that does not hold under the pinned roots, at the given time."""


class PolicyError(EvidenceError):
    """A policy that does not load, or contradicts itself."""


class SessionError(BlindhostError):
    """A message out of order, replayed, of another session or for somebody else."""


class RefusedError(BlindhostError):
    """Somebody who was asked says no.

    `code` is a stable word for programs (e.g. ``nonce-stale``); the text is for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
