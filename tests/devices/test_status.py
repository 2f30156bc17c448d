"""Work in threads: none waits for another, and threads are used again."""

from __future__ import annotations

import threading

from queuescope.devices._status import in_thread, in_turn


def test_work_never_waits_for_other_work() -> None:
    """R0.3: a call that hangs keeps no other device from moving."""
    hang = threading.Event()
    hanging = [in_thread(lambda: hang.wait(20), "hanging") for _ in range(5)]
    in_thread(lambda: None, "quick").wait(20)
    assert not any(status.done for status in hanging)
    hang.set()
    for status in hanging:
        status.wait(20)


def test_what_one_device_is_asked_for_is_done_in_that_order() -> None:
    """Issue 5, item 8: a plan that is stopped puts things back while what it asked for is under way."""

    class Device:
        pass

    slow, done, one = threading.Event(), list[str](), Device()
    first = in_turn(lambda: (slow.wait(20), done.append("there")), one)
    back = in_turn(lambda: done.append("back"), one)
    in_turn(lambda: done.append("other"), Device()).wait(20)
    assert (first.done, back.done, done) == (False, False, ["other"])
    slow.set()
    back.wait(20)
    assert done == ["other", "there", "back"]


def test_threads_are_used_again() -> None:
    """Issue 3, `bench device`: a new thread for each move costs more than the move."""
    in_thread(lambda: None, "first").wait(20)
    threads = threading.active_count()
    for _ in range(200):
        in_thread(lambda: None, "next").wait(20)
    assert threading.active_count() <= threads + 2
