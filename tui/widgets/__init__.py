"""Widgets of our own, where textual's are too slow or too trusting."""
