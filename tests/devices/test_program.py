"""A volume that the hardware takes by itself, followed by its flyer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.devices import ProgramPlan, build_devices
from queuescope.hardware import DatasetPlan, FrameSettings, VolumeProgram, VolumeView, connect
from queuescope.layout import Layout

SLICES = 4


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    environ = {"QUEUESCOPE_MICROMANAGER__PROCESS": "worker", "QUEUESCOPE_STORAGE__MIN_FREE_GB": "0"}
    scope, layout = load_scope("demo-widefield", environ=environ), Layout(tmp_path / "data")
    layout.create()
    hardware = connect(scope, layout)
    yield build_devices(scope, layout, hardware)
    hardware.close()


def test_a_view_that_is_ahead_of_the_next_one_is_no_news(devices: tuple[dict[str, Any], Any]) -> None:
    """Views that follow each other: frames of the first are told when the second has them too, and nobody asks in a circle."""
    built, recordings = devices
    flyer = built["volume"]
    recordings.start_run("run-0001")
    settings = FrameSettings(exposure_ms=150)  # the first view takes longer than frames are gathered for
    steps = tuple(float(n) for n in range(SLICES))
    views = tuple(
        VolumeView(dataset=name, camera="camera", settings=settings, piezo="z", piezo_um=steps)
        for name in ("first", "second")
    )
    datasets = tuple(DatasetPlan(name=view.dataset, camera="camera", frames=SLICES, axis="z") for view in views)
    flyer.prepare(ProgramPlan(VolumeProgram(views=views, order="volume", trigger="software"), datasets)).wait(20)
    flyer.kickoff().wait(20)
    told: list[int] = []
    while not flyer.ended:
        flyer.trigger().wait(30)
        told.append(flyer.get_index())
        list(flyer.collect_asset_docs())
        recordings.told()
    assert len(told) <= SLICES + 1  # every answer but the last brought something
    assert told[-1] == SLICES
    assert flyer.frames_written == {"first": SLICES, "second": SLICES}
    recordings.end_run()
