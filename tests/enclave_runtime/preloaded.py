"""What the fork server imports once: the order and the variables are `Work.prepare`'s."""

from enclave_runtime.environment import set_process_environment

set_process_environment()

from enclave_runtime.recipes.run import import_libraries  # noqa: E402 - after the environment

import_libraries()
