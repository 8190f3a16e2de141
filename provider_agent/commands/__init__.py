"""Sub-commands of ``blindhost-agent``: each module has ``add_parser`` and ``run``."""
