"""What each screen knows: frozen states, and ``apply(state, fact, now) -> state``, pure.

A fact that a screen does not know leaves its state as it is; facts may come in any order, twice, or
not at all. No state holds more than its named maximum.
"""
