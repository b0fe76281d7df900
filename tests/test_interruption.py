"""Ctrl-C as a flag."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from corrlib.interruption import interruption


@pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to one process there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag(number):
    before = signal.getsignal(number)
    with interruption() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert stopped()
        assert signal.getsignal(number) == before  # the second acts as usual
    assert signal.getsignal(number) == before


@pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to one process there")
def test_the_second_ctrl_c_ends_the_work(request):
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), interruption() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        while not stopped():  # two signals that are both on their way count as one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_off_the_main_thread_there_is_no_flag_to_set():
    seen = []

    def work():
        with interruption() as stopped:
            seen.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
