"""Decisions: who runs what, and what to do when they stop. It moves no money."""
