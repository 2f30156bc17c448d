"""What a run's descriptors carry, so that the same image could be taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.preprocessors import run_decorator, stage_decorator

from queuescope.config import load_scope
from queuescope.devices import CameraPlan, ProgramPlan, build_devices
from queuescope.hardware import DatasetPlan, FrameSettings, VolumeProgram, VolumeView, connect
from queuescope.layout import Layout
from queuescope.startup._session import ScopeRunEngine

ENVIRON = {"QUEUESCOPE_MICROMANAGER__PROCESS": "worker", "QUEUESCOPE_STORAGE__MIN_FREE_GB": "0"}


def test_a_camera_and_a_volume_say_how_their_images_were_taken(tmp_path: Path) -> None:
    """Issue 3, 3: pixel size, objective, binning, ROI, gain, exposure, filters, light and power, in both kinds of run."""
    scope, layout = load_scope("demo-dispim", environ=ENVIRON), Layout(tmp_path)
    layout.create()
    hardware = connect(scope, layout)
    devices, recordings = build_devices(scope, layout, hardware)
    camera, volume = devices["cam_a"], devices["volume"]
    lit = FrameSettings(exposure_ms=5, light="l488")
    view = VolumeView(dataset="cam_a", camera="cam_a", settings=lit, piezo="piezo_a", piezo_um=(0.0, 1.0))
    plan = ProgramPlan(
        VolumeProgram(views=(view,), trigger="software"),
        (DatasetPlan(name="cam_a", camera="cam_a", frames=2, axis="z"),),
    )

    def image() -> Any:
        @stage_decorator([camera])
        @run_decorator()
        def inner() -> Any:
            yield from bps.prepare(camera, CameraPlan(lit, frames=1, channel="gfp"), wait=True)
            yield from bps.trigger_and_read([camera])

        yield from inner()

    def stack() -> Any:
        @stage_decorator([volume])
        @run_decorator()
        def inner() -> Any:
            yield from bps.prepare(volume, plan, wait=True)
            yield from bps.declare_stream(volume, name="primary", collect=True)
            yield from bps.kickoff(volume, wait=True)
            yield from bps.complete(volume, wait=True)
            yield from bps.collect(volume)

        yield from inner()

    try:
        for taken, name in ((image, "cam_a"), (stack, "volume")):
            documents: list[tuple[str, dict[str, Any]]] = []
            ScopeRunEngine(recordings)(taken(), lambda kind, doc, into=documents: into.append((kind, doc)))
            assert documents[-1][1]["exit_status"] == "success"
            (descriptor,) = [doc for kind, doc in documents if kind == "descriptor"]
            found = descriptor["configuration"][name]["data"]
            expected = {
                "exposure_ms": 5.0,
                "binning": 1,
                "pixel_um": 0.1625,
                "gain": 0.0,
                "light": "l488",
                "power_pct": 0.0,
            }
            expected |= {"objective": "Nikon 40X Water 0.8", "emission": hardware.label("emission")}
            assert {key: found[f"cam_a_{key}"] for key in expected} == expected
            assert found["cam_a_roi"] == [0, 0, 2048, 2048]
            keys = descriptor["configuration"][name]["data_keys"]
            assert keys["cam_a_exposure_ms"]["units"] == "ms"
            assert set(keys) == set(found)
    finally:
        hardware.close()
