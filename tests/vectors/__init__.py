"""Golden vectors and the script that makes them: ``python -m tests.vectors.build``."""
