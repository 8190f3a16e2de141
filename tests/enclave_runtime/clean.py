"""Runs a function in a fresh fork of a process that has imported the libraries and has no thread.

`Work.prepare` refuses to fork a process with threads, and a test runner may have some.
"""

from __future__ import annotations

import multiprocessing
import traceback
from multiprocessing.connection import Connection
from typing import Any

_SECONDS_MAX = 240


def in_clean_process(function: Any, *arguments: Any) -> Any:
    """The function's value; its exception is raised here, with its traceback as text."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.enclave_runtime.preloaded"])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(theirs, function, arguments))
    child.start()
    theirs.close()
    try:
        assert ours.poll(_SECONDS_MAX), "the process did not answer"
        value, error = ours.recv()
    finally:
        if child.is_alive():
            child.join(5)
        child.kill()
        child.join()
        ours.close()
    if error is not None:
        raise AssertionError(error)
    return value


def _call(answers: Connection, function: Any, arguments: tuple[Any, ...]) -> None:
    try:
        answers.send((function(*arguments), None))
    except BaseException:  # noqa: BLE001 - it is raised where the test is
        answers.send((None, traceback.format_exc()))
