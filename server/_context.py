"""What the routes stand on: the scope, the data directory, the neighbours' addresses.

bluesky-httpserver imports our router by name and gives it no hook at start, so this is made at the first request, from the
environment that `queuescope.layout.process_arguments` exports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TypeVar

from ..config import Scope, load_scope
from ..hardware import ConnectedHardware, HardwareGoneError, HardwareInfo, HardwareState, connect
from ..layout import DEFAULT_SCOPE, SCOPE_ENV, Layout
from ..ledger import Room, room_for
from ._probe import Probe
from ._queue import control_address

T = TypeVar("T")

LOOK_FOR_HARDWARE_S = 0.3
"""How long a request looks for a hardware process that is not there; the next request looks again."""


class Context:
    """One microscope, as the HTTP process sees it."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        self.scope = scope
        self.layout = layout

    @cached_property
    def control(self) -> str:
        """Address of the queue server's control socket."""
        return control_address(self.scope, self.layout)

    def tiled(self) -> str | None:
        """Address of Tiled's API; None where nobody has said which port it took."""
        service = self.scope.services.tiled
        if service != "embedded" and service.port:
            return f"http://{service.host}:{service.port}/api/v1"
        return (self.layout.runtime() or {}).get("tiled")

    def server_id(self) -> str | None:
        """Identity of this installation, once the supervisor has written it."""
        return (self.layout.runtime() or {}).get("server_id")

    @cached_property
    def hardware_info(self) -> Probe[HardwareInfo]:
        """Asks the hardware process who it is: touches no adapter."""
        link = _Link(self.scope, self.layout)
        return Probe(lambda: link.call(lambda hardware: hardware.info()), "hardware-info")

    @cached_property
    def hardware_state(self) -> Probe[HardwareState]:
        """Reads every device. A thread of its own: a slow reading must not make the liveness check look hung."""
        link = _Link(self.scope, self.layout)
        return Probe(lambda: link.call(lambda hardware: hardware.state()), "hardware-state")

    @cached_property
    def room(self) -> Probe[Room | None]:
        """Looks at the disk that frames go to, which may be a network's."""
        return Probe(lambda: room_for(self.scope, self.layout), "room")


class _Link:
    """The way to the hardware process, found again after that was restarted. For one thread."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        self._scope = scope
        self._layout = layout
        self._hardware: ConnectedHardware | None = None

    def call(self, read: Callable[[ConnectedHardware], T]) -> T:
        """Read something; once more where the process that was known is gone (reading twice does no harm)."""
        if self._hardware is not None:
            try:
                return read(self._hardware)
            except HardwareGoneError:
                self._hardware.close()
                self._hardware = None
        self._hardware = connect(self._scope, self._layout, timeout_s=LOOK_FOR_HARDWARE_S)
        return read(self._hardware)


@lru_cache(1)
def current() -> Context:
    """The microscope of this process."""
    return Context(load_scope(os.environ.get(SCOPE_ENV, DEFAULT_SCOPE)), Layout())
