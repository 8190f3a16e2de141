"""Evidence: layouts and parsing alone. Nothing here believes what it reads."""
