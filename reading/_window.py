"""The newest frame of something that isn't recorded: shown to whoever asks, in no file.

Who has frames opens a `Window`; who wants to see one asks over its unix socket. To ask is to look: a window knows when anybody
last did, so that no light is on for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FRESH_S = 1.0
"""A frame older than this isn't shown: the next one is waited for."""
WAIT_S = 1.0
"""So long at most."""
PATIENCE_S = 5.0
"""For a neighbour on this machine."""


@dataclass(frozen=True)
class Shown:
    """A frame, and what is known of it."""

    image: np.ndarray
    """(height, width), uint8 or uint16."""
    camera: str
    index: int
    """0, 1 … since the window was opened."""
    time: float
    """Seconds since the epoch."""
    pixel_um: float
    """Of a pixel, in the sample."""
    saturation: int
    """Grey value at which the camera saturates."""


class Window:
    """Shows the newest frame from now on, until it is closed.

    Parameters
    ----------
    address
        The socket; one that a killed process left is replaced.
    """

    def __init__(self, address: Path) -> None:
        self.opened_at = time.monotonic()
        self.looked_at: float | None = None
        """Monotonic: when anybody asked last."""
        self._news = threading.Condition()
        self._shown: Shown | None = None
        self._closed = False
        self._address = address
        address.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        os.chmod(address, 0o600)
        self._socket.listen(4)
        threading.Thread(target=self._serve, name="live-window", daemon=True).start()

    def show(self, shown: Shown) -> None:
        with self._news:
            self._shown = shown
            self._news.notify_all()

    def close(self) -> None:
        """Nobody sees anything any more; twice is no error."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        self._address.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                viewer, _ = self._socket.accept()
            except OSError:
                return
            with viewer, contextlib.suppress(OSError):
                viewer.settimeout(PATIENCE_S)
                self.looked_at = time.monotonic()
                shown = self._fresh()
                if shown is not None:
                    facts = {name: value for name, value in asdict(shown).items() if name != "image"}
                    facts |= {"shape": shown.image.shape, "dtype": shown.image.dtype.str}
                    viewer.sendall(json.dumps(facts).encode() + b"\n" + shown.image.tobytes())

    def _fresh(self) -> Shown | None:
        def fresh() -> bool:
            return self._closed or (self._shown is not None and time.time() - self._shown.time <= FRESH_S)

        with self._news:
            self._news.wait_for(fresh, WAIT_S)
            return self._shown if not self._closed and fresh() else None


def look(address: Path) -> Shown | None:
    """The newest frame in a window; None where there is no window, or no frame yet."""
    if not hasattr(socket, "AF_UNIX"):  # Windows, where no RE worker runs
        return None
    with socket.socket(socket.AF_UNIX) as window:
        window.settimeout(PATIENCE_S)
        try:
            window.connect(str(address))
            with window.makefile("rb") as stream:
                line = stream.readline()
                if not line:
                    return None
                facts: dict[str, Any] = json.loads(line)
                shape, dtype = tuple(facts.pop("shape")), np.dtype(facts.pop("dtype"))
                pixels = stream.read(int(np.prod(shape)) * dtype.itemsize)
            return Shown(image=np.frombuffer(pixels, dtype).reshape(shape), **facts)
        except (OSError, ValueError):  # closed meanwhile
            return None
