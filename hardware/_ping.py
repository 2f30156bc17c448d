"""Whether the hardware process answers, asked with a deadline of its own by whoever would restart it."""

from __future__ import annotations

from ..config import Scope
from ..layout import Layout
from ._address import address_of
from ._link import client_link
from ._proxy import ProxyHardware, _key
from ._surface import HardwareInfo
from ._wire import call_named


class Ping:
    """One connection of its own, made when it is first asked and again after it broke. Drives nothing."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        self._scope, self._layout = scope, layout
        self._proxy: ProxyHardware | None = None

    def __call__(self, limit_s: float = 1.0) -> HardwareInfo:
        """Who answers.

        Raises
        ------
        HardwareGoneError
            Where nobody listens.
        HardwareTimeout
            Where somebody does, and no answer came within ``limit_s``.
        """
        if self._proxy is None:
            address = address_of(self._scope, self._layout)
            link = None if address.socket_path is not None else client_link(address, self._layout)
            self._proxy = ProxyHardware(self._scope, address, _key(self._layout), link)
        call = call_named("info")
        found: HardwareInfo = call.unpack_result(self._proxy.send(call.name, call.pack_arguments({}), limit_s))
        return found
