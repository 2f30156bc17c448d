"""What a file tells of its image to whoever has only the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ome_types
import pytest
import yaozarrs

from queuescope.formats import Format, ImageFacts, LightFacts, check, ome_xml
from queuescope.hardware import DatasetPlan, FrameSettings, RecordingPlan
from queuescope.reading import open_volume


def recorded(local: Any, volume_format: Format, lit: FrameSettings, **plan: Any) -> tuple[Path, str]:
    """Two frames of cam_a."""
    described = DatasetPlan(name="cam_a", camera="cam_a", frames=2, format=volume_format, **plan)
    asked = RecordingPlan(
        run_uid="run-of-metadata", sample_id="embryo-1", session_id="s1", position="head", datasets=(described,)
    )
    state = local.open_recording(asked)
    for _ in range(2):
        local.record_frame(state.recording, {"cam_a": lit})
    closed = local.close_recording(state.recording)
    return Path(closed.datasets["cam_a"].path), asked.run_uid


def test_both_formats_tell_the_same(local: Any, volume_format: Format, lit: FrameSettings) -> None:
    """Issue 4, item 2: axes, pixel size, channel, light, filter, objective, camera, exposure."""
    path, _ = recorded(local, volume_format, lit, axis="z", step_um=-2.0, channel="gfp", exposure_ms=2.0, power_pct=3.0)
    volume = open_volume(path)
    scope = local._microscope._scope
    facts = volume.facts
    assert (volume.axes, volume.pixel_um, volume.channel) == (["z", "y", "x"], 0.1625, "gfp")
    assert volume.scale == [2.0, 0.1625, 0.1625]
    light = scope.lights[scope.channels["gfp"].light]
    assert facts.light == LightFacts("l488", light.wavelength_nm, 3.0, laser=light.laser_class is not None)
    assert facts.emission == scope.channels["gfp"].emission
    assert facts.objective is not None
    assert (facts.objective.na, facts.objective.magnification) == (0.8, 40.0)
    assert facts.camera is not None
    assert (facts.camera.label, facts.camera.binning) == (scope.devices["cam_a"].label, 1)
    assert facts.bit_depth == local.state().cameras["cam_a"].bit_depth


def test_a_tiff_names_its_run_sample_and_planes(local: Any, lit: FrameSettings) -> None:
    """Issue 4, item 2: valid by the schema; times, exposures and stage positions of each plane."""
    path, uid = recorded(local, "ome-tiff", lit, axis="z", step_um=2.0, channel="gfp", exposure_ms=2.0)
    ome = ome_types.from_tiff(path)
    check(ome_types.to_xml(ome))
    image = ome.images[0]
    assert uid in str(image.name)
    lines = [json.loads(line) for line in open_volume(path).frame_list.read_text().splitlines()]
    assert image.acquisition_date is not None
    assert abs(image.acquisition_date.timestamp() - lines[0]["time"]) < 1e-5
    first, second = image.pixels.planes
    assert (first.delta_t, second.delta_t) == (0.0, lines[1]["time"] - lines[0]["time"])
    assert (first.exposure_time, first.position_x) == (0.002, lines[0]["position"]["xy.x"])
    channel = image.pixels.channels[0]
    assert (channel.name, channel.excitation_wavelength, channel.color.as_hex()) == ("gfp", 488.0, "#0f0")
    assert ome.instruments[0].filters[0].model == "BP525"
    told = {m.k: m.value for m in ome.structured_annotations.map_annotations[0].value.ms}
    assert (told["run_uid"], told["sample_id"], told["session_id"]) == (uid, "embryo-1", "s1")
    assert (told["position"], told["scope"]) == ("head", "demo-dispim")


@pytest.mark.parametrize("name", ["a<b&c>", "line\nbreak\x00\x1b", "\ud800", "µ 胚 😀"])
def test_whatever_a_session_is_called_the_file_is_valid(name: str) -> None:
    """Names come from clients."""
    facts = ImageFacts("run-uid-1", "cam_a", (8, 8), "uint16", about={"session_id": name})
    xml = ome_xml(facts)
    check(xml)
    told = {m.k: m.value for m in ome_types.from_xml(xml).structured_annotations.map_annotations[0].value.ms}
    assert told["session_id"] == "".join(sign if sign.isprintable() else "?" for sign in name)


def test_a_zarr_tells_beside_ngff_what_that_has_no_place_for(local: Any, lit: FrameSettings) -> None:
    """docs/reference/files.md: ``attributes.queuescope``."""
    path, uid = recorded(local, "ome-zarr", lit, channel="gfp", exposure_ms=2.0)
    ome = yaozarrs.validate_ome_uri(str(path)).attributes.ome
    assert (ome.omero.channels[0].label, ome.omero.channels[0].color) == ("gfp", "00FF00")
    ours = json.loads((path / "zarr.json").read_text())["attributes"]["queuescope"]
    assert (ours["run_uid"], ours["sample_id"], ours["session_id"]) == (uid, "embryo-1", "s1")
    assert (ours["exposure_ms"], ours["light"]["wavelength_nm"], ours["emission_filter"]) == (2.0, 488, "BP525")
    assert ours["objective"]["na"] == 0.8


def test_what_nobody_said_is_left_out(local: Any, volume_format: Format, lit: FrameSettings) -> None:
    """No channel, no exposure: none is made up."""
    path, _ = recorded(local, volume_format, lit)
    facts = open_volume(path).facts
    assert (facts.light, facts.emission, facts.exposure_ms, facts.step_um) == (None, None, None, None)
    assert facts.camera is not None
