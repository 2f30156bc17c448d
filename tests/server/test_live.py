"""What is live, over REST. R4 live."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from queuescope.reading import Shown, Window


@pytest.fixture(scope="module")
def server(start_for_module: Callable[..., Any], data_folder: Callable[[str], Any]) -> Any:
    return start_for_module(data_folder("live"))


def test_a_picture_of_the_newest_frame(server: Any) -> None:
    """To ask is to look; without a window there is nothing to see."""
    client = server["observer"]
    before = client.get("/api/scope/live.png")
    assert (before.status_code, before.json()["code"]) == (404, "not_live")
    with closing(Window(server.layout.live_socket)) as window:
        assert client.get("/api/scope/live.png").status_code == 404, "no frame yet"
        assert window.looked_at is not None
        assert time.monotonic() - window.looked_at < 10
        image = np.arange(64 * 32, dtype=np.uint16).reshape(64, 32)
        window.show(Shown(image, "overview", 7, time.time() + 3, 0.325, 4095))
        reply = client.get("/api/scope/live.png?scale=2")
        assert reply.status_code == 200, reply.text
        assert struct.unpack(">II", reply.content[16:24]) == (16, 32)
        assert (reply.headers["live-camera"], reply.headers["live-frame"]) == ("overview", "7")
        assert reply.headers["preview-pixel-um"] == "0.65"
        assert reply.headers["preview-saturation"] == "4095"
        assert reply.headers["cache-control"] == "no-store"
        assert client.get("/api/scope/live.png?scale=0").status_code == 400
        assert server[""].get("/api/scope/live.png").status_code == 401
    assert client.get("/api/scope/live.png").status_code == 404
