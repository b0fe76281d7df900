"""Stopping in good order when the user presses Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag, so that work in hand is finished.

    Yields a function that says whether one has come; the second signal acts as usual.
    """
    caught = []
    before = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():  # handlers exist only there
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, catch) for number in signals}
    try:
        yield lambda: bool(caught)
    finally:
        restore()
