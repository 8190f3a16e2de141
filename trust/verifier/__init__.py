"""The verifier of RFC 9334, as a function: evidence, endorsements, roots, policy and a time in.

Rules:
- Parse, verify and appraise are three steps with three types: `SnpReport`, `VerifiedEvidence`,
  `AttestationResult`. Only this package makes the last two.
- It is pure: no clock, no network, no files, and nothing remembered. What is withheld is refused.
"""
