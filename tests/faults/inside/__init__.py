"""A whole town in one process: every party's own code and disk, and no socket, thread or sleep."""
