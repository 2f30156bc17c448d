"""Statuses for work that blocks: it runs in a thread of its own, so that the RunEngine's loop never waits for hardware."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ophyd.status import Status


class WorkStatus(Status):
    """A status whose text is the error it failed with: the RunEngine writes that text into the stop document's reason."""

    def __str__(self) -> str:
        error = self.exception() if self.done else None
        return super().__str__() if error is None else f"{type(error).__name__}: {error}"


def in_thread(work: Callable[[], Any], obj: Any) -> Status:
    """Start ``work`` and return the status that ends with it.

    Parameters
    ----------
    work
        Called once, in a daemon thread. What it raises becomes the status's exception, unchanged.
    obj
        The device that the status belongs to, for messages.
    """
    status = WorkStatus(obj=obj)

    def run() -> None:
        try:
            work()
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()

    threading.Thread(target=run, name=f"{getattr(obj, 'name', obj)}", daemon=True).start()
    return status


def finished(obj: Any) -> Status:
    """A status that has ended well."""
    status = Status(obj=obj)
    status.set_finished()
    return status
