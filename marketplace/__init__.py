"""The book of record: it matches, meters and settles, and sees ciphertext alone."""
