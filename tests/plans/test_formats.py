"""A plan on a microscope whose volumes are OME-TIFFs: what its documents say, and what the file tells."""

import json
from collections.abc import Iterator
from pathlib import Path

import ome_types
import pytest
import tifffile
import xxhash

from queuescope.formats import frame_list
from queuescope.layout import resolve_uri
from queuescope.startup._session import Session, open_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(tmp_path))
        patch.setenv("QUEUESCOPE_SCOPE", "demo-dispim")
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        patch.setenv("QUEUESCOPE_STORAGE__FORMAT", "ome-tiff")
        opened = open_session()
    yield opened
    opened.hardware.close()


def test_a_plan_records_tiffs(session: Session) -> None:
    """Issue 4, item 2: chosen in the scope; documents, file and frame list agree."""
    kwargs = {"camera": "overview", "n": 3, "channels": [{"name": "gfp"}]}
    item = {"item_uid": "i", "user": "ada", "user_group": "agent", "meta": {"session_id": "s1", "sample_id": "e1"}}
    metadata = session.run_metadata({**item, "name": "snap", "kwargs": kwargs})
    outcome = session.run_engine(session.plans["snap"](**kwargs), **metadata)
    uid = outcome.plan_result["run_uid"]
    lines = session.layout.document_log(uid).read_text().splitlines()
    (resource,) = (e["doc"] for e in map(json.loads, lines) if e["name"] == "stream_resource")
    path = resolve_uri(session.layout, session.scope, resource["parameters"]["uri_client"], "clients")
    assert path.name == f"{uid}_overview.ome.tiff"
    assert (resource["mimetype"], resource["uri"]) == ("image/tiff", path.as_uri().replace("///", "//localhost/", 1))
    taken = [json.loads(line)["checksum"] for line in frame_list(path).read_text().splitlines()]
    assert [f"xxh3_128:{xxhash.xxh3_128_hexdigest(frame)}" for frame in tifffile.imread(path)] == taken
    assert len(taken) == 3
    ome = ome_types.from_tiff(path)
    assert (ome.images[0].pixels.size_t, len(ome.images[0].pixels.planes)) == (3, 3)
    told = {m.k: m.value for m in ome.structured_annotations.map_annotations[0].value.ms}
    assert (told["run_uid"], told["sample_id"], told["session_id"]) == (uid, "e1", "s1")


def test_a_plan_may_choose_another_format_and_its_image_says_how_it_was_taken(session: Session) -> None:
    """Issue 4, item 2: per plan; exposure, light and power stand in the image's own metadata."""
    for name, kwargs in (("snap", {"n": 2}), ("z_stack", {"range_um": 1, "step_um": 1.0})):
        for form, suffix in ((None, ".ome.tiff"), ("ome-zarr", ".ome.zarr")):
            asked = {"camera": "overview", "channels": [{"name": "gfp", "power_pct": 3}], "format": form, **kwargs}
            outcome = session.run_engine(session.plans[name](**asked))
            path = session.layout.volumes / f"{outcome.plan_result['run_uid']}_overview{suffix}"
            assert path.exists()
            if form is None:
                planes = ome_types.from_tiff(path).images[0].pixels.planes
                assert [plane.exposure_time for plane in planes] == [0.01, 0.01]  # in s
            else:
                told = json.loads((path / "zarr.json").read_text())["attributes"]["queuescope"]
                assert (told["exposure_ms"], told["light"]["name"], told["light"]["power_pct"]) == (10.0, "l488", 3.0)
