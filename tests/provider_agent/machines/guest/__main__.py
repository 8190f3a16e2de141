"""``python -m tests.provider_agent.machines.guest FOLDER``: make the test guest there."""

import sys
from pathlib import Path

from tests.provider_agent.machines.guest.build import ENVIRONMENT, fetch_kernel, make_guest

if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    make_guest(fetch_kernel(folder), folder)
    sys.stdout.write(f"export {ENVIRONMENT}={folder}\n")
