"""Work in threads: none waits for another, and threads are used again."""

from __future__ import annotations

import threading

from queuescope.devices._status import in_thread


def test_work_never_waits_for_other_work() -> None:
    """R0.3: a call that hangs keeps no other device from moving."""
    hang = threading.Event()
    hanging = [in_thread(lambda: hang.wait(20), "hanging") for _ in range(5)]
    in_thread(lambda: None, "quick").wait(20)
    assert not any(status.done for status in hanging)
    hang.set()
    for status in hanging:
        status.wait(20)


def test_threads_are_used_again() -> None:
    """Issue 3, `bench device`: a new thread for each move costs more than the move."""
    in_thread(lambda: None, "first").wait(20)
    threads = threading.active_count()
    for _ in range(200):
        in_thread(lambda: None, "next").wait(20)
    assert threading.active_count() <= threads + 2
