"""The public names of Blindhost's client, for `import blindhost`."""

from client import *  # noqa: F403
from client import __all__ as __all__  # noqa: PLC0414
