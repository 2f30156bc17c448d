"""Where the mode is decided: MMCore in its own process (`own`) or inside the RE worker (`worker`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..config import Scope
from ..layout import Layout
from ._surface import Hardware, HardwareInfo


class ConnectedHardware(Hardware, Protocol):
    """`Hardware` as `connect` returns it."""

    def close(self) -> None:
        """Give it up: in mode `worker` recordings end, lights go off, devices are unloaded; in mode `own` only this
        client's connections close. Twice is no error.
        """
        ...


def in_own_process(scope: Scope) -> bool:
    """Whether MMCore lives in a process of its own, rather than in the RE worker."""
    return scope.micromanager.process == "own"


def connect(scope: Scope, layout: Layout, timeout_s: float = 10.0) -> ConnectedHardware:
    """The microscope of this scope.

    Parameters
    ----------
    scope
        ``scope.micromanager.process`` decides: ``own`` finds the hardware process, ``worker`` loads MMCore here.
    layout
        The data directory, which also says where the hardware process listens.
    timeout_s
        How long to look for the hardware process, in seconds.

    Raises
    ------
    HardwareGoneError
        Where no hardware process answered in time.
    ConfigurationError
        Where the configuration and the scope file don't fit, or the process found runs another scope.
    """
    if not in_own_process(scope):
        from ._local import LocalHardware

        return LocalHardware.load(scope, layout)
    from ._proxy import find_hardware

    return find_hardware(scope, layout, timeout_s)


def pinger(scope: Scope, layout: Layout) -> Callable[[float], HardwareInfo]:
    """Mode ``own``: a function of a time limit in seconds that asks the hardware process who it is.

    It raises `HardwareGoneError` where nobody listens and `HardwareTimeout` where somebody does who doesn't answer.
    """
    from ._ping import Ping

    return Ping(scope, layout)
