"""The host's side, wholly untrusted: it launches enclaves and carries ciphertext."""
