"""A guest as small as can be that speaks the door's protocol, for QEMU's emulation.

``python -m tests.provider_agent.machines.guest FOLDER`` makes it: it takes Debian's kernel package
by apt (once), compiles `init.c` and packs both. Tests look for it in $BLINDHOST_TEST_GUEST, and are
skipped with a word where it is absent: no test fetches anything.
"""
