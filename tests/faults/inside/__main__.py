"""Print how many fault points an undisturbed run has: ``python -m tests.faults.inside``."""

from __future__ import annotations

import sys

from tests.faults.inside.points import table
from tests.faults.inside.test_inside import counted

if __name__ == "__main__":
    sys.stdout.write(table(counted()) + "\n")
