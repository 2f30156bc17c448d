"""A sequence of one Python camera, in a thread."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any

import numpy as np
from pymmcore_plus import Keyword
from pymmcore_plus.experimental.unicore import CameraDevice

from ._frame_queue import FramePool, FrameQueue, Overflow

log = logging.getLogger("queuescope.hardware")

STOP_S = 2.0
"""A camera that was asked to stop may take so long for its last frame."""


class CameraSequence(threading.Thread):
    """One camera's sequence; its frames go into the queue that all share, each with its camera's label."""

    def __init__(self, camera: CameraDevice, images: int | None, frames: FrameQueue, pool: FramePool) -> None:
        super().__init__(name=f"sequence-{camera.get_label()}", daemon=True)
        self.error: BaseException | None = None
        self._camera, self._images, self._queue, self._pool = camera, images, frames, pool
        self._stopping = threading.Event()
        self._buffer: np.ndarray | None = None
        shape, dtype = camera.shape(), np.dtype(camera.dtype())
        x, y, *_ = camera.get_roi()
        self._told: dict[str, Any] = {
            Keyword.Metadata_CameraLabel: camera.get_label(),
            Keyword.Metadata_Height: str(shape[0]),
            Keyword.Metadata_Width: str(shape[1]),
            Keyword.Metadata_ROI_X: str(x),
            Keyword.Metadata_ROI_Y: str(y),
            Keyword.PixelType: f"GRAY{8 * dtype.itemsize}",
        }
        self._frames = iter(camera.start_sequence(images, self._get_buffer))  # armed from here on

    def _get_buffer(self, shape: Any, dtype: Any) -> np.ndarray:
        self._buffer = self._pool.take(shape, dtype)
        self._queue.make_room(self._buffer.nbytes)
        return self._buffer

    def run(self) -> None:
        began, numbers = time.perf_counter(), count()
        try:
            for told in self._frames:
                if self._stopping.is_set() or self._buffer is None:
                    break
                number = next(numbers)
                frame, self._buffer = self._buffer, None
                self._queue.put(
                    frame,
                    {
                        **self._told,
                        **told,
                        Keyword.Metadata_TimeInCore: datetime.now().isoformat(sep=" "),
                        Keyword.Metadata_ImageNumber: str(number),
                        Keyword.Elapsed_Time_ms: f"{1000 * (time.perf_counter() - began):.2f}",
                    },
                )
                del frame
                if self._images is not None and number + 1 >= self._images:
                    break
        except Overflow:
            log.warning("%s: the buffer is full, the sequence ends", self._camera.get_label())
        except Exception as error:
            self.error = error
            log.exception("the sequence of %s failed", self._camera.get_label())
        finally:
            if hasattr(self._frames, "close"):
                with suppress(Exception):
                    self._frames.close()

    def stop(self) -> None:
        """End it; returns when it has ended, or after `STOP_S`."""
        self._stopping.set()
        if self.is_alive():
            if hasattr(self._camera, "stop_sequence"):
                self._camera.stop_sequence()
            self.join(STOP_S)
