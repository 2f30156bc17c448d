"""Every device of both demo microscopes, held to one list. A new kind fails here until it is complete (R3.1, R3.8, R3.10)."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky.protocols import Movable, Readable, Stageable, Stoppable, Triggerable
from ophyd import Device
from ophyd.utils import RedundantStaging

from queuescope.config import Scope, load_scope
from queuescope.devices import RunRecordings, build_devices
from queuescope.hardware import ConnectedHardware, HardwareError, connect
from queuescope.layout import Layout

CAMERAS = ("camera", "multi_camera")
OF_OURS = {"burst": "volume", "channel": "channel", "volume": "volume"}
TWO_CAMERAS = str(Path(__file__).parents[1] / "scopes" / "two-cameras")
SCOPES = [("demo-dispim", "worker"), ("demo-widefield", "worker"), (TWO_CAMERAS, "worker"), ("demo-dispim", "own")]
NAMES = {name: load_scope(name, environ={}) for name, _ in SCOPES}

Case = tuple[str, str, str]
"""Scope, mode, device."""


def kind_of(scope: Scope, name: str) -> str:
    if name in scope.devices:
        return str(scope.devices[name].kind)
    return "light" if name in scope.lights else OF_OURS[name]


def names_in(scope: Scope) -> list[str]:
    return [*scope.devices, *scope.lights, *OF_OURS]


def cases(*without: str) -> list[Any]:
    """Every device of the two scopes in mode ``worker``; in mode ``own`` the first of each kind."""
    found, seen = [], set()
    for scope, mode in SCOPES:
        for name in names_in(NAMES[scope]):
            kind = kind_of(NAMES[scope], name)
            if kind in without or (mode == "own" and kind in seen):
                continue
            if mode == "own":
                seen.add(kind)
            found.append(pytest.param((scope, mode, name), id=f"{NAMES[scope].name}-{mode}-{name}"))
    return found


@dataclass
class Bench:
    scope: Scope
    hardware: ConnectedHardware
    devices: dict[str, Any]
    recordings: RunRecordings
    name: str = ""

    @property
    def device(self) -> Any:
        return self.devices[self.name]

    @property
    def kind(self) -> str:
        return kind_of(self.scope, self.name)

    @property
    def near(self) -> float:
        """How near to what was asked it may read."""
        return float(getattr(self.scope.devices.get(self.name), "tolerance", 1e-6))

    def elsewhere(self) -> Any:
        """A value that the device takes and that isn't its own now."""
        limits = getattr(self.scope.devices.get(self.name), "limits", None)
        match self.kind:
            case "stage":
                return 3.0 if self.device.position != 3.0 else 4.0
            case "xy_stage" | "galvo":
                here = self.hardware.positions((f"{self.name}.x",))[f"{self.name}.x"]
                return (1.0, 2.0) if abs(here - 1) > 0.1 else (2.0, 1.0)
            case "state" | "objective" | "config_group":
                return next(label for label in self.hardware.labels(self.name) if label != self.device.get())
            case "temperature":
                here, tolerance = self.device.get(), self.scope.devices[self.name].tolerance
                return round(here - 0.5 * tolerance, 2) if here > sum(limits) / 2 else round(here + 0.5 * tolerance, 2)
            case "property":
                choices = self.scope.devices[self.name].choices or limits
                return next(choice for choice in choices if choice != self.device.get())
            case "autofocus" | "light":
                return not self.device.get()
            case "channel":
                return next(channel for channel in self.scope.channels if channel != self.device.get())
            case kind:
                raise AssertionError(f"say here what a {kind} can be set to")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Bench]]:
    """One microscope at a time: the cases come scope by scope."""
    open_now: dict[tuple[str, str], Bench] = {}
    with ExitStack() as stack:

        class Benches(dict[tuple[str, str], Bench]):
            def __missing__(self, key: tuple[str, str]) -> Bench:
                stack.close()
                open_now.clear()
                open_now[key] = _bench(*key, tmp_path_factory, stack)
                return open_now[key]

            def __getitem__(self, key: tuple[str, str]) -> Bench:
                return open_now[key] if key in open_now else self.__missing__(key)

        yield Benches()


def _bench(name: str, mode: str, factory: pytest.TempPathFactory, stack: ExitStack) -> Bench:
    environ = {"QUEUESCOPE_MICROMANAGER__PROCESS": mode, "QUEUESCOPE_STORAGE__MIN_FREE_GB": "0"}
    scope = load_scope(name, environ=environ)
    layout = Layout(factory.mktemp(f"{scope.name}-{mode}"))
    layout.create()
    if mode == "own":
        command = [sys.executable, "-m", "queuescope.hardware", "--scope", name, "--data", str(layout.data)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environ}
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdout is not None
        assert any('"event": "ready"' in line for line in iter(process.stdout.readline, ""))
    hardware = connect(scope, layout, timeout_s=20)
    stack.callback(hardware.close)
    devices, recordings = build_devices(scope, layout, hardware)
    return Bench(scope, hardware, devices, recordings)


@pytest.fixture
def bench(request: pytest.FixtureRequest, benches: dict[tuple[str, str], Bench]) -> Iterator[Bench]:
    """The device of a case; its microscope is dark and unlocked afterwards."""
    scope, mode, name = request.param
    found = replace(benches[scope, mode], name=name)
    yield found
    assert all(off.off for off in found.hardware.lights_off())
    for autofocus in found.scope.of_kind("autofocus"):
        found.hardware.lock_focus(autofocus, False)


def over(*without: str) -> Any:
    return pytest.mark.parametrize("bench", cases(*without), indirect=True)


def fits(value: Any, key: dict[str, Any]) -> bool:
    """Whether a value is what its data key says."""
    plain = {"string": str, "number": float, "integer": int, "boolean": bool}
    if key["dtype"] == "array":
        return isinstance(value, list) and key["shape"] == [len(value)]
    return type(value) is plain[key["dtype"]] and key["shape"] == []


@over("volume")
def test_it_says_what_it_is(bench: Bench) -> None:
    """Issue 3, 3: every reading and every configuration value has its data key: source, type, shape; units and limits of
    what moves, shines or is warmed; choices of what has labels; hints and labels for people."""
    device = bench.device
    if bench.kind in CAMERAS:
        assert device.read() == {}
        described: dict[str, Any] = {}
    else:
        assert isinstance(device, Readable)
        described = dict(device.describe())
        readings = device.read()
        assert set(readings) == set(described)
        for name, reading in readings.items():
            assert fits(reading["value"], described[name]), (name, reading, described[name])
    for key in described.values():
        assert key["source"].startswith("mm:")
        if key["dtype"] == "number":
            fixed = bench.kind == "light" and bench.scope.lights[bench.name].power == "fixed"
            assert key["lower_ctrl_limit"] < key["upper_ctrl_limit"] or fixed
            assert key["units"]
        if key["dtype"] == "string":
            assert key["choices"]
    configuration, keys = device.read_configuration(), device.describe_configuration()
    assert set(configuration) == set(keys)
    for name, reading in configuration.items():
        assert fits(reading["value"], keys[name]), (name, reading, keys[name])
        assert not name.endswith(("_ms", "_um", "_pct", "_nm")) or keys[name]["units"], name
    assert set(device.hints["fields"]) <= set(described)
    assert bool(device.hints["fields"]) == (bench.kind not in CAMERAS)
    assert device._ophyd_labels_


@over()
def test_it_is_staged_and_unstaged_as_often_as_anybody_likes(bench: Bench) -> None:
    """Issue 3, 3: staged twice, unstaged twice, after a failure: never left half staged."""
    device = bench.device
    if not isinstance(device, Stageable):
        assert bench.kind not in (*CAMERAS, "volume", "xy_stage", "galvo")
        return

    def unstage() -> None:
        ended = device.unstage()
        if hasattr(ended, "wait"):
            ended.wait(20)

    for _ in range(2):
        device.stage()
        with contextlib.suppress(RedundantStaging):  # ophyd's devices refuse it, and stay as they were
            device.stage()
        unstage()
        unstage()
    if hasattr(device, "hardware_restarted"):
        device.stage()
        device.hardware_restarted()
        device.stage()
        unstage()


@over(*CAMERAS, "volume")
def test_it_refuses_what_nobody_can_mean(bench: Bench) -> None:
    """R3.8: by ``check_value``, so a dry run sees it, and by ``set``; nothing is changed, and the error names thing and value."""
    for value in (math.nan, math.inf, "no such thing", None, 1e12, b"", {}):
        _refused(bench, value)
        if bench.kind in ("xy_stage", "galvo"):
            _refused(bench, (value, 0.0))
            _refused(bench, (0.0, value))
    if bench.kind not in ("light", "autofocus"):
        _refused(bench, True)


def _refused(bench: Bench, value: Any) -> None:
    before = {name: reading["value"] for name, reading in bench.device.read().items()}
    for refuse in (bench.device.check_value, bench.device.set):
        with pytest.raises(HardwareError) as caught:
            refuse(value)
        assert str(caught.value.fields["thing"]).split(".")[0] == bench.name
        assert caught.value.fields["value"] is not None
    assert {name: reading["value"] for name, reading in bench.device.read().items()} == before


@over(*CAMERAS, "volume")
def test_it_can_be_set_stopped_and_read(bench: Bench) -> None:
    """Issue 3, 3: the status is done when the thing is, with no error; then it reads what was asked. Stopping is harmless."""
    device, target = bench.device, bench.elsewhere()
    assert isinstance(device, Movable)
    device.check_value(target)
    device.set(target).wait(20)
    read = [reading["value"] for reading in device.read().values()]
    if isinstance(target, tuple):
        assert read == pytest.approx(list(target), abs=bench.near)
    else:
        assert read[0] == (pytest.approx(target, abs=bench.near) if isinstance(target, float) else target)
    if isinstance(device, Stoppable):
        device.stop(success=True)
        device.stop()
    if bench.kind in ("stage", "xy_stage", "galvo", "light", "autofocus", "temperature"):
        assert isinstance(device, Stoppable), "what goes on by itself can be stopped"


@over(*CAMERAS, "volume", "state", "objective", "config_group", "property", "autofocus", "light", "channel")
def test_a_move_says_how_far_it_is(bench: Bench) -> None:
    """Issue 3, 3: to whoever watches the status; at the end nothing remains."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    target = bench.elsewhere()
    status = bench.device.set(target)
    status.watch(lambda **update: told.put(update))
    status.wait(20)
    update = told.get(timeout=20)
    while update["fraction"] > 0.05:
        update = told.get(timeout=20)
    assert (update["name"], update["target"]) == (bench.name, target)
    assert update["unit"] in ("um", "deg", "degC")
    assert np.allclose(update["current"], target, atol=bench.near)


@over(*CAMERAS, "volume", "xy_stage", "galvo")
def test_its_subscribers_are_told(bench: Bench) -> None:
    """R0.6: what changed, whoever changed it, as it reads then."""
    told: queue.Queue[Any] = queue.Queue()
    number = bench.device.subscribe(lambda value, **_: told.put(value), run=False)
    target = bench.elsewhere()
    bench.device.set(target).wait(20)
    value = told.get(timeout=20)
    while value != (pytest.approx(target, abs=bench.near) if isinstance(target, float) else target):
        value = told.get(timeout=20)
    bench.device.unsubscribe(number)


@over("volume")
def test_it_can_be_triggered_where_it_measures(bench: Bench) -> None:
    """Issue 3, 3: a camera's frame is on disk; the same image could be taken again. Nothing else does anything when it is
    triggered: reading a microscope moves nothing.
    """
    device = bench.device
    if bench.kind not in CAMERAS:
        assert not isinstance(device, Triggerable) or isinstance(device, Device)  # ophyd's devices do nothing then
        return
    bench.recordings.start_run(str(uuid.uuid4()))
    device.stage()
    device.trigger().wait(20)
    device.trigger().wait(20)  # not told yet in a document: not taken again
    for key in device.describe().values():
        assert (key["external"], key["dtype"], len(key["shape"])) == ("STREAM:", "array", 2)
    documents = [name for name, _ in device.collect_asset_docs()]
    assert documents == ["stream_resource", "stream_datum"] * len(device.cameras)
    assert bench.recordings.end_run() == (dict.fromkeys(device.cameras, 1), None)
    device.unstage()
    needed = {"exposure_ms", "binning", "roi", "pixel_um", "bit_depth", "light", "power_pct", "channel"}
    needed |= set(bench.scope.of_kind("state", "objective", "config_group", "property"))
    assert {f"{camera}_{key}" for key in needed for camera in device.cameras} <= set(device.read_configuration())


def test_every_kind_that_a_scope_may_have_is_held_to_this() -> None:
    """R3.1: these scopes have one of each."""
    from queuescope.config import _TAGS

    assert {str(d.kind) for scope in NAMES.values() for d in scope.devices.values()} == _TAGS
