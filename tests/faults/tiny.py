"""Write a tiny random model into a folder: ``python -m tests.faults.tiny DIR``.

In a process of its own: tensors start threads, and a town forks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.assets import tiny_model

if __name__ == "__main__":
    tiny_model().write(Path(sys.argv[1]))
