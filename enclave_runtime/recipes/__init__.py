"""What an enclave computes: each recipe is one file, read top to bottom."""
