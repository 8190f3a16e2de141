"""All parties on one machine, as separate processes, by their public commands."""
