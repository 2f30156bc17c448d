"""Pictures of frames: what they show, what their headers say, and what is refused."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from queuescope.config import load_scope
from queuescope.formats import Format
from queuescope.layout import Layout
from queuescope.reading import LONGEST_PROJECTION_BYTES, open_volume, render
from queuescope.server._image import read_image
from queuescope.server._problems import Problem

Asked = Callable[..., tuple[np.ndarray, dict[str, str]]]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def run(layout: Layout, write_run: Callable[..., Any], volume_format: Format) -> Any:
    """Growing: four of six frames of one camera, one of another; in each format."""
    run = write_run(layout, form=volume_format)
    run.dataset("cam_a", frames=4, planned=6, shape=(64, 64))
    run.dataset("cam_b", frames=1, planned=6, dtype="uint8")
    return run


@pytest.fixture
def ask(layout: Layout, run: Any) -> Asked:
    """The picture's grey values, and its headers without ``Preview-``."""
    scope = load_scope("demo-dispim", environ={})

    def asked(
        dataset: str | None = "cam_a",
        index: str | None = None,
        project: Any = None,
        scale: int = 1,
        uid: str | None = None,
    ) -> tuple[np.ndarray, dict[str, str]]:
        shown, headers = read_image(scope, layout, uid or run.uid, dataset, index, project, scale)
        picture = Image.open(io.BytesIO(shown.png))
        assert (picture.format, picture.mode) == ("PNG", "L")
        return np.asarray(picture), {key.removeprefix("Preview-"): value for key, value in headers.items()}

    return asked


def stretched(image: np.ndarray, headers: dict[str, str]) -> np.ndarray:
    """An image with the contrast that the headers tell."""
    black, white = (float(x) for x in headers["Range"].split(", "))
    return np.clip((image - black) * 255 / max(white - black, 1) + 0.5, 0, 255).astype(np.uint8)


def same(picture: np.ndarray, image: np.ndarray, headers: dict[str, str]) -> None:
    np.testing.assert_allclose(picture.astype(int), stretched(image, headers).astype(int), atol=1)


@pytest.mark.parametrize(("index", "number"), [(None, 3), ("-1", 3), ("0", 0), ("2", 2), ("-4", 0)])
def test_a_frame_is_shown_while_the_run_grows(ask: Asked, run: Any, index: str | None, number: int) -> None:
    """R3.4 previews are served by UID, also while the run grows: the newest is the default."""
    picture, headers = ask(index=index)
    same(picture, run.frames["cam_a"][number], headers)
    assert headers["Frames"] == f"{number}:{number + 1}"
    assert (headers["Frames-Written"], headers["Dataset"]) == ("4", "cam_a")
    assert float(headers["Pixel-Um"]) == 0.5
    if index == "-1":
        newest = run.expose("cam_a")
        same(ask(index="-1")[0], newest, ask(index="-1")[1])


def test_contrast_goes_from_percentile_to_percentile(ask: Asked, run: Any) -> None:
    _, headers = ask(index="1")
    low, high = np.percentile(run.frames["cam_a"][1], (1, 99.8))
    assert headers["Percentiles"] == "1, 99.8"
    assert [float(x) for x in headers["Range"].split(", ")] == pytest.approx([low, high], rel=1e-4)


def test_saturated_pixels_are_counted_at_the_cameras_depth(ask: Asked, run: Any) -> None:
    """The documents say 12 bits."""
    _, headers = ask(index="0")
    assert headers["Saturation"] == "4095"
    assert float(headers["Saturated"]) == pytest.approx(np.mean(run.frames["cam_a"][0] >= 4095), rel=1e-4)


@pytest.mark.parametrize(
    ("index", "first", "stop"), [(None, 0, 4), ("1:3", 1, 3), (":2", 0, 2), ("2:", 2, 4), ("-1", 3, 4)]
)
@pytest.mark.parametrize("project", ["max", "mean"])
def test_projections(ask: Asked, run: Any, project: str, index: str | None, first: int, stop: int) -> None:
    picture, headers = ask(index=index, project=project)
    frames = np.array(run.frames["cam_a"][first:stop])
    same(picture, frames.max(axis=0) if project == "max" else frames.mean(axis=0).round(), headers)
    assert headers["Frames"] == f"{first}:{stop}"


@pytest.mark.parametrize("scale", [2, 3, 5, 16, 64])
def test_pixels_are_binned_and_their_size_is_told(ask: Asked, run: Any, scale: int) -> None:
    picture, headers = ask(index="0", scale=scale)
    n = 64 // scale
    cut = run.frames["cam_a"][0][: n * scale, : n * scale].astype(float)
    same(picture, cut.reshape(n, scale, n, scale).mean(axis=(1, 3)).round(), headers)
    assert float(headers["Pixel-Um"]) == pytest.approx(0.5 * scale)
    assert headers["Scale"] == str(scale)


def test_bytes_have_pictures_too(ask: Asked, run: Any) -> None:
    picture, headers = ask("cam_b")
    same(picture, run.frames["cam_b"][0], headers)


def test_a_dark_frame_is_black_not_an_error() -> None:
    dark = render(np.full((8, 8), 7, np.uint16), 0, 1, 1, None, (1, 99.8), 4095)
    assert (dark.black, dark.white, dark.saturated) == (7, 7, 0)
    assert np.asarray(Image.open(io.BytesIO(dark.png))).max() == 0


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"index": "4"}, "unknown_frame", r"cam_a has 4 frames on disk: index 4 is outside \[-4, 3\]"),
        ({"index": "-5"}, "unknown_frame", "index -5"),
        ({"index": "2:5", "project": "max"}, "unknown_frame", "2:5 is not a range within 0:4"),
        ({"index": "3:3", "project": "max"}, "unknown_frame", "3:3"),
        ({"index": "1:2"}, "invalid_query", "with project"),
        ({"index": "one"}, "invalid_query", "'one'"),
        ({"index": "1.0"}, "invalid_query", "whole number"),
        ({"dataset": "cam_c"}, "unknown_dataset", "has cam_a, cam_b"),
        ({"dataset": None}, "unknown_dataset", "is missing: run .* has cam_a, cam_b"),
        ({"scale": 65}, "preview_too_large", "scale 65 leaves nothing of 64 × 64"),
        ({"uid": "00000000-0000"}, "unknown_run", "no run"),
        ({"uid": "../keys"}, "unknown_run", "no run's uid"),
    ],
)
def test_what_is_not_there_is_refused(ask: Asked, asked: dict[str, Any], code: str, said: str) -> None:
    """Never more than the frames that count; nothing is made up (R3.10)."""
    with pytest.raises(Problem, match=said) as refused:
        ask(**asked)
    assert refused.value.code == code


def test_one_dataset_needs_no_name(ask: Asked, layout: Layout, write_run: Callable[..., Any]) -> None:
    alone = write_run(layout)
    alone.dataset("overview", frames=1)
    assert ask(None, uid=alone.uid)[1]["Dataset"] == "overview"


def test_a_lost_frame_is_an_error_not_a_black_picture(ask: Asked, run: Any) -> None:
    """R3.10 a failed read raises."""
    if run.form == "ome-zarr":
        run.chunk(3).unlink()
    else:
        os.truncate(run.volume(), 45_000)
    for asked in ({}, {"project": "max"}):
        with pytest.raises(Problem, match="frame 3 is missing") as refused:
            ask(**asked)
        assert refused.value.code == "unreadable_frame"


def test_a_file_that_is_away_says_so(ask: Asked, run: Any) -> None:
    run.volume().rename(run.volume().with_name("away"))
    with pytest.raises(Problem, match=r"can't see the file of cam_a: .* is not there") as refused:
        ask()
    assert (refused.value.code, refused.value.status) == ("volume_unreachable", 503)


@pytest.mark.parametrize("volume_format", ["ome-zarr"])
def test_a_projection_has_a_limit_and_says_it(ask: Asked, run: Any) -> None:
    """Bounded work: refused by its size, before a frame is read."""
    metadata = run.volume() / "0" / "zarr.json"
    array = json.loads(metadata.read_text())
    array["shape"][1:] = array["chunk_grid"]["configuration"]["chunk_shape"][1:] = [7000, 7000]
    metadata.write_text(json.dumps(array))
    lines = run.frame_list().read_text().splitlines(keepends=True)
    run.frame_list().write_text(lines[0] * 50)
    assert 50 * open_volume(run.volume()).frame_bytes > LONGEST_PROJECTION_BYTES
    with pytest.raises(Problem, match=r"reads 4\.9 GB, the limit is 2 GB: at most 20 frames at once") as refused:
        ask(project="max")
    assert refused.value.code == "preview_too_large"
    array["shape"][1:] = array["chunk_grid"]["configuration"]["chunk_shape"][1:] = [9000, 9000]
    metadata.write_text(json.dumps(array))
    with pytest.raises(Problem, match="81000000 pixels"):
        ask(index="0")
