"""One frame at each of many places, in one dataset."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bluesky.utils import FailedStatus

from queuescope.hardware import LimitError
from queuescope.plans._tiles import grid
from queuescope.startup._session import Session

from .test_common import small, told  # noqa: F401 (a fixture)
from .test_templates import documents, run


def test_a_grid_goes_back_and_forth_around_its_centre() -> None:
    assert grid((0, 0), 2, 3, (10, 4)) == [(-10, -2), (0, -2), (10, -2), (10, 2), (0, 2), (-10, 2)]


def places(session: Session, run_uid: str) -> list[tuple[float, float]]:
    lines = (session.layout.volumes / f"{run_uid}_camera.frames.jsonl").read_text().splitlines()
    return [(p["xy.x"], p["xy.y"]) for p in (json.loads(line)["position"] for line in lines)]


def test_tiles_lie_a_frame_less_the_overlap_apart(small: Session) -> None:  # noqa: F811
    """R4 tile_scan(rows, columns, overlap_pct): by the size of a frame as it is taken; then the stage goes back."""
    small.hardware.move({"xy.x": 0.0, "xy.y": 0.0})
    small.hardware.select("objective", small.scope.objectives["air20"].label)
    outcome = run(small, "tile_scan", {"rows": 2, "columns": 2, "overlap_pct": 25, "binning": 2})
    run_uid = outcome.run_start_uids[0]
    step = 512 * 0.5 * 0.75
    half = step / 2
    wanted = [(-half, -half), (half, -half), (half, half), (-half, half)]
    assert places(small, run_uid) == [pytest.approx(where, abs=0.05) for where in wanted]
    docs = documents(small, run_uid)
    assert told(docs) == {"camera": [0, 1, 2, 3]}
    events = [(doc["data"]["xy_x"], doc["data"]["xy_y"]) for kind, doc in docs if kind == "event"]
    assert events == [pytest.approx(where, abs=0.05) for where in wanted]
    assert small.hardware.positions(("xy.x", "xy.y")) == pytest.approx({"xy.x": 0.0, "xy.y": 0.0}, abs=0.05)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"positions": [{"x_um": 5, "y_um": 0}, {"x_um": 15, "y_um": 10, "z_um": 4}]},
        {"grid": {"rows": 1, "columns": 2, "step_x_um": 10, "step_y_um": 1}, "position": {"x_um": 10, "y_um": 0}},
    ],
)
def test_an_overview_is_one_dataset(small: Session, kwargs: dict[str, Any]) -> None:  # noqa: F811
    """R4 overview(positions | grid)."""
    small.hardware.move({"xy.x": 0.0, "xy.y": 0.0, "z": 1.0})
    outcome = run(small, "overview", kwargs)
    found = places(small, outcome.run_start_uids[0])
    assert outcome.plan_result["datasets"] == {"camera": 2}
    assert [x for x, _ in found] == pytest.approx([5, 15], abs=0.05)
    assert small.hardware.positions(("z",))["z"] == pytest.approx(1.0)


def test_a_tile_outside_the_limits_moves_nothing(small: Session) -> None:  # noqa: F811
    """R3.8 every target is checked before the first move."""
    small.hardware.move({"xy.x": 4900.0, "xy.y": 0.0})
    with pytest.raises((LimitError, FailedStatus), match=r"xy.x .* outside"):
        run(small, "tile_scan", {"rows": 1, "columns": 9, "overlap_pct": 0})
    assert small.hardware.positions(("xy.x",))["xy.x"] == pytest.approx(4900.0, abs=0.05)
