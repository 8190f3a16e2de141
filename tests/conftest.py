"""What all tests share: no test is timed, so hypothesis has no deadline; in CI it is deterministic.

Where the variable CI is set, hypothesis loads its own profile for it, which has no deadline either.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:
    settings.load_profile("untimed")
