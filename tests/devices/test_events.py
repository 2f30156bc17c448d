"""ophyd subscribers get the positions that the hardware tells by itself."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope, load_scope
from queuescope.devices import build_devices
from queuescope.hardware import ConnectedHardware, connect
from queuescope.layout import Layout


class Process:
    """A hardware process of the demo scope."""

    def __init__(self, layout: Layout) -> None:
        command = [sys.executable, "-m", "queuescope.hardware", "--scope", "demo-dispim", "--data", str(layout.data)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert any('"event": "ready"' in line for line in iter(self.process.stdout.readline, ""))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Start (or start again) the hardware process of the test's data directory."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(Layout(tmp_path)))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(params=["worker", "own"])
def hardware(
    request: pytest.FixtureRequest, tmp_path: Path, processes: Callable[[], Process]
) -> Iterator[ConnectedHardware]:
    if request.param == "own":
        processes()
    connected = connect(scope_of(request.param), Layout(tmp_path), timeout_s=20)
    yield connected
    connected.close()


def scope_of(mode: str) -> Scope:
    return load_scope("demo-dispim", environ={**os.environ, "QUEUESCOPE_MICROMANAGER__PROCESS": mode})


class Readbacks:
    """A subscriber that keeps what it is told."""

    def __init__(self) -> None:
        self._told: queue.Queue[float] = queue.Queue()

    def __call__(self, value: float, **_: Any) -> None:
        self._told.put(value)

    def until(self, position: float) -> list[float]:
        told = [self._told.get(timeout=20)]
        while told[-1] != pytest.approx(position):
            told.append(self._told.get(timeout=20))
        return told


def test_subscribers_get_readbacks_once(hardware: ConnectedHardware, tmp_path: Path) -> None:
    """R0.6: of our own moves and of foreign ones, on a stage that tells and on a galvo that doesn't; one thread for all."""
    devices, _ = build_devices(scope_of("own"), Layout(tmp_path), hardware)
    threads = threading.active_count()
    z, galvo = Readbacks(), Readbacks()
    devices["z"].subscribe(z)
    devices["galvo_a"].x.subscribe(galvo)
    assert threading.active_count() <= threads + 2  # ours, and in mode `worker` that of the hardware's callbacks
    devices["z"].set(4.0).wait(20)
    devices["galvo_a"].set((1.5, 0.5)).wait(20)
    hardware.move({"z": 6.0})
    assert z.until(6.0) == [4.0, 6.0]
    assert galvo.until(1.5) == [1.5]


def test_a_subscriber_that_fails_disturbs_nobody(hardware: ConnectedHardware, tmp_path: Path) -> None:
    """R0.6: neither the others nor the hardware."""
    devices, _ = build_devices(scope_of("own"), Layout(tmp_path), hardware)

    def fail(**_: Any) -> None:
        raise RuntimeError("not my day")

    good = Readbacks()
    devices["piezo_a"].subscribe(fail)
    devices["piezo_b"].subscribe(good)
    hardware.move({"piezo_a": 3.0, "piezo_b": 3.0})
    assert good.until(3.0) == [3.0]


def test_subscriptions_outlive_the_process(tmp_path: Path, processes: Callable[[], Process]) -> None:
    """R0.3, R0.6: after a crash subscribers are told where axes are now, and then every move."""
    first = processes()
    hardware = connect(scope_of("own"), Layout(tmp_path), timeout_s=20)
    devices, _ = build_devices(scope_of("own"), Layout(tmp_path), hardware)
    z = Readbacks()
    devices["z"].subscribe(z)
    hardware.move({"z": 8.0})
    z.until(8.0)
    first.end()
    processes()
    z.until(0.0)  # where the new process finds it
    hardware.move({"z": 9.0})
    assert z.until(9.0) == [9.0]
    hardware.close()
