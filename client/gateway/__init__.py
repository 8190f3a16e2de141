"""`blindhost gateway`: the OpenAI and Ray Jobs APIs on the buyer's own loopback.

Both clients upload data in the clear, so their endpoint stands on the buyer's side of the trust
line: what leaves this process for the market is sealed to an attested enclave, or to the buyer.
"""
