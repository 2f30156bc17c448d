"""What a killed hardware process leaves half-written is finished by the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import xxhash
import yaozarrs
import zarr

from queuescope.formats import Format
from queuescope.formats import check as check_xml
from queuescope.hardware import DatasetPlan, RecordingPlan
from queuescope.hardware._unfinished import Unfinished
from queuescope.layout import frames_on_disk
from queuescope.reading import open_volume


def found_by_others(path: Path, frames: int) -> np.ndarray:
    """All its frames, as other programs read them; the metadata are valid."""
    if path.suffix == ".tiff":
        with tifffile.TiffFile(path) as tiff:
            check_xml(str(tiff.ome_metadata))
            array = tiff.asarray()
    else:
        yaozarrs.validate_zarr_store(str(path))
        array = np.asarray(zarr.open_array(f"{path}/0", mode="r"))
    assert array.shape[0] == frames
    return array


def test_the_next_process_finishes_what_a_killed_one_left(
    killed_volume: Any, start_process: Callable[..., Any], volume_format: Format
) -> None:
    """R3.12: after SIGKILL in a volume its shape becomes the frames written, and each one reads back."""
    path, lines, layout = killed_volume.path, killed_volume.frame_list, killed_volume.layout
    with lines.open("a") as file:
        file.write('{"index": 9999, "half a l')  # as a kill in the middle of a line leaves it
    assert open_volume(path).shape[0] == killed_volume.planned
    found_by_others(path, killed_volume.planned)

    start_process(killed_volume.scope.path, layout.data).started()
    frames = frames_on_disk(path)
    assert frames is not None
    assert 3 <= frames < killed_volume.planned
    array = found_by_others(path, frames)
    for index, line in enumerate(map(json.loads, lines.read_text().splitlines())):
        assert line["index"] == index
        assert line["checksum"] == "xxh3_128:" + xxhash.xxh3_128_hexdigest(array[index].tobytes())
    if volume_format == "ome-zarr":
        assert sorted(int(folder.name) for folder in (path / "0" / "c").iterdir()) == list(range(frames))
    else:
        assert path.stat().st_size < (frames + 1) * array[0].nbytes + 65536 + 400 * frames
    assert list((layout.services / "unfinished").iterdir()) == []


def test_a_closed_recording_leaves_no_note(local: Any, new_plan: Callable[..., RecordingPlan], lit: Any) -> None:
    """R3.12: only what is being written is noted."""
    notes = Path(local._microscope._recorder._unfinished._folder)
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=1)))
    assert [note.name for note in notes.iterdir()] == [f"{state.run_uid}_cam_a.ome.zarr"]
    local.record_frame(state.recording, {"cam_a": lit})
    local.close_recording(state.recording)
    assert list(notes.iterdir()) == []


def test_what_is_gone_or_can_not_be_mended_stops_no_start(tmp_path: Path) -> None:
    """R3.12: a volume somebody removed is forgotten; one whose disk is away is tried again at the next start."""
    unfinished = Unfinished(tmp_path / "unfinished")
    (tmp_path / "volumes" / "made.ome.zarr").mkdir(parents=True)
    for volume in ("volumes/removed.ome.zarr", "not mounted/away.ome.zarr", "volumes/made.ome.zarr"):
        unfinished.add(tmp_path / volume)
    assert unfinished.mend() == {"made.ome.zarr": 0}
    assert [note.name for note in (tmp_path / "unfinished").iterdir()] == ["away.ome.zarr"]
