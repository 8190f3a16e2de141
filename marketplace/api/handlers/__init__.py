"""One file for each part of the wire; each function is one route."""
