"""A disk that fills up, with everything real: what doesn't fit is refused, what is queued waits and goes on by itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.scripts._probes import http_request

PATIENCE_S = 60


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 100 MB."""
    folder = tmp_path_factory.mktemp("small disk")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small(disk: Path, another_stack: Any) -> Iterator[Any]:
    """A running stack whose frames go to that disk, 30 MB of which stay free; `another_stack` ends before the disk goes."""
    root = json.dumps({"SMALL": dict.fromkeys(("hardware", "tiled", "clients"), str(disk))})
    another_stack.environ |= {
        "QUEUESCOPE_STORAGE__ROOTS": root,
        "QUEUESCOPE_STORAGE__ROOT": "SMALL",
        "QUEUESCOPE_STORAGE__MIN_FREE_GB": "0.03",
    }
    started = another_stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    yield another_stack
    another_stack.down()


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


def test_a_full_disk_holds_the_queue_and_lets_it_go(small: Any, disk: Path) -> None:
    """Issue 4, item 9: estimates before queueing, `hold: disk`, told by `GET /api/ready`, released without anybody's help."""

    def holds() -> list[dict[str, Any]]:
        return list(http_request(f"{small.http}/api/ready", small.layout.key("observer"))[1]["holds"])

    sizes = json.loads((small.layout.services / "frame_sizes.json").read_text())
    assert {name: size["bytes"] for name, size in sizes.items()}["cam_a"] == 2048 * 2048 * 2
    assert holds() == []
    with pytest.raises(
        Exception, match=r"0\.84 GB are needed and 0\.03 GB must stay free .* fewer frames, or make room in"
    ):
        small.submit("acquire_volume", "space.too-big", slices=50)
    assert small.manager().status()["items_in_queue"] == 0

    small.manager().queue_autostart(enable=False)
    waiting = small.submit("snap", "space.waits", camera="cam_a", n=2)
    filler = disk / "filler"
    filler.write_bytes(bytes(60_000_000))
    moving = small.submit("move_axis", "space.moves", axis="z", to=2.0)
    small.manager().queue_autostart(enable=True)
    assert small.wait(moving)["result"]["exit_status"] == "completed", "it records no frames"
    [hold] = until(lambda: [hold for hold in holds() if hold["reason"] == "disk"])
    assert hold["detail"].startswith("snap waits for room on the disk: 0.02 GB are needed and 0.03 GB must stay free")
    assert str(disk) in hold["needs"]
    until(lambda: small.manager().status(reload=True)["manager_state"] == "idle")  # it looks again now and then
    assert small.manager().status(reload=True)["items_in_queue"] == 1
    os.unlink(filler)
    assert small.wait(waiting)["result"]["exit_status"] == "completed"
    assert until(lambda: holds() == [])
