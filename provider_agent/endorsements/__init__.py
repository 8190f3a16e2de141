"""What vendors certify of this host's hardware: fetched, kept, and carried with its evidence.

A host can withhold it, and never forge it: nothing here decides whether a certificate is good. What
is looked at is shape and lifetime, so that a host learns today what a verifier would say tomorrow.
"""
