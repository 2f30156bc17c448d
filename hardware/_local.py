"""Mode `worker`: MMCore in this very process. No other process, socket or name server is started (R0.1)."""

from __future__ import annotations

import atexit
from typing import Any

from ..config import Scope
from ..layout import Layout
from ._calls import HardwareCalls
from ._microscope import Microscope
from ._wire import Call, run


class LocalHardware(HardwareCalls):
    """The microscope in this process, called with the same checks as across the boundary."""

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope
        atexit.register(self.close)  # lights go off even where nobody closes

    @classmethod
    def load(cls, scope: Scope, layout: Layout) -> LocalHardware:
        return cls(Microscope(scope, layout, "worker"))

    def _carry(self, call: Call, values: dict[str, Any]) -> Any:
        return run(self._microscope, call, values)

    def close(self) -> None:
        """Recordings end, lights and emissions go off, devices are unloaded."""
        atexit.unregister(self.close)
        self._microscope.close()
