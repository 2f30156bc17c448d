"""Frames that don't fit on the disk: what is said at submission, and what waits in the queue. Issue 4, item 9."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from bluesky import Msg

from queuescope.config import Scope, load_scope
from queuescope.layout import Layout
from queuescope.ledger import Waits, room_for
from queuescope.plans import templates
from queuescope.startup._frame_sizes import FrameSizes
from queuescope.startup._gate import Gate
from queuescope.startup._queueserver import KeyedPlanQueue, ScopeManager
from queuescope.startup._space import RoundsWait, Space

FRAME = 2048 * 2048 * 2


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create()
    return made


def scope_keeping(gb: float) -> Scope:
    """The demo scope with so much of the disk kept free."""
    return load_scope("demo-dispim", environ={"QUEUESCOPE_STORAGE__MIN_FREE_GB": str(gb)})


def descriptor(camera: str, shape: list[int], dtype: str = "<u2") -> dict[str, Any]:
    label = load_scope("demo-dispim", environ={}).of_kind("camera")[camera].label
    key = {"source": f"mm:{label}", "dtype": "array", "dtype_numpy": dtype, "shape": shape, "external": "STREAM:"}
    return {"run_start": "run-1", "data_keys": {camera: key, "z": {"source": "mm:z", "dtype": "number", "shape": []}}}


@pytest.fixture
def sizes(layout: Layout) -> FrameSizes:
    """As after a run with two cameras."""
    found = FrameSizes(scope_keeping(0), layout)
    found("descriptor", descriptor("cam_a", [2048, 2048]))
    found("descriptor", descriptor("cam_b", [3, 2048, 2048]))
    return found


def snap(uid: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "item_type": "plan",
        "item_uid": uid,
        "name": "snap",
        "kwargs": {"camera": "cam_a", **kwargs},
        "user_group": "agent",
    }


def test_frame_sizes_are_what_the_cameras_said_last(layout: Layout, sizes: FrameSizes) -> None:
    assert sizes.bytes_of({"cam_a": 3, "cam_b": 1}) == 4 * FRAME
    assert sizes.bytes_of({"cam_a_heart": 2}) == 2 * FRAME, "a dataset's name begins with its camera's"
    assert sizes.bytes_of({"overview": 5}) == 0, "it has said nothing, and nothing is invented"
    sizes("descriptor", descriptor("cam_a", [1024, 1024], "|u1"))
    noted = json.loads((layout.services / "frame_sizes.json").read_text())
    assert (noted["cam_a"]["bytes"], noted["cam_a"]["shape"], noted["cam_a"]["told_by"]) == (
        2**20,
        [1024, 1024],
        "run-1",
    )
    (layout.services / "frame_sizes.json").write_text("half of i")
    assert sizes.bytes_of({"cam_a": 1}) == 0


def test_a_plan_needs_what_its_estimate_says(layout: Layout, sizes: FrameSizes) -> None:
    scope = scope_keeping(0)
    space = Space(scope, layout, templates(scope))
    volume = space.room("acquire_volume", {"slices": 10})
    assert volume is not None
    assert (volume.needed, volume.fits) == (2 * 10 * FRAME, True)
    assert space.room("move_axis", {"axis": "z", "to": 1.0}) is None, "it records no frames"
    assert space.room("snap", {"n": -1}) is None, "what is wrong is refused elsewhere"
    assert space.room("their_own", {}) is None


def test_what_cannot_fit_is_refused_at_submission(layout: Layout, sizes: FrameSizes) -> None:
    """GB needed, kept and free, where, and what to do; one that fits, or records nothing, goes its way."""
    scope = scope_keeping(1e6)
    manager = ScopeManager.__new__(ScopeManager)
    manager._scope, manager._templates = scope, templates(scope)
    manager._space = Space(scope, layout, manager._templates)
    manager._allowed_plans = {"primary": {name: {} for name in manager._templates}}
    item = {"name": "snap", "kwargs": {"camera": "cam_a", "n": 100}}
    with pytest.raises(RuntimeError) as refused:
        manager._prepare_item(item=item, item_type="plan", user_group="primary")
    text = str(refused.value)
    assert text.startswith("plan 'snap' refused: 0.84 GB are needed and 1000000.00 GB must stay free")
    assert f"are free in {layout.data}" in text
    assert f"fewer frames, or make room in {layout.data}" in text


def test_a_plan_waits_for_room_and_goes_on_by_itself(layout: Layout, sizes: FrameSizes) -> None:
    """`hold: disk` since it was first seen to wait; other plans don't wait."""
    tight, wide = (Gate(scope, layout, templates(scope)) for scope in (scope_keeping(1e6), scope_keeping(0)))
    hold = tight.hold(snap("1"))
    assert hold is not None
    assert (hold.reason, hold.needs) == ("disk", f"make room in {layout.data}")
    assert hold.detail.startswith(
        "snap waits for room on the disk: 0.01 GB are needed and 1000000.00 GB must stay free"
    )
    again = tight.hold(snap("1"))
    assert again is not None
    assert again.since == hold.since
    assert Waits(layout).told() == {"1": hold}
    assert tight.hold({**snap("2"), "name": "move_axis", "kwargs": {"axis": "z", "to": 1.0}}) is None
    assert wide.hold(snap("1")) is None
    assert Waits(layout).told() == {}


def test_the_first_plan_that_fits_comes_to_the_front(layout: Layout, sizes: FrameSizes) -> None:
    """What waited and is gone from the queue is told no more."""
    scope = scope_keeping(1e6)
    moved: list[str] = []
    move_axis = {**snap("3"), "name": "move_axis", "kwargs": {"axis": "z", "to": 1.0}}

    class Queue(KeyedPlanQueue):
        items = (snap("1"), snap("2"), move_axis)

        def __init__(self) -> None:
            self.gate = Gate(scope, layout, templates(scope))

        async def get_queue_full(self) -> Any:
            return list(self.items), {}, "uid"

        async def move_item(self, *, uid: str, pos_dest: str) -> None:
            moved.append(uid)

    queue = Queue()
    assert asyncio.run(queue.bring_to_front()) is None
    assert moved == ["3"]
    assert sorted(Waits(layout).told()) == ["1", "2"]
    queue.items = (snap("2"),)
    hold = asyncio.run(queue.bring_to_front())
    assert hold is not None
    assert hold.reason == "disk"
    assert sorted(Waits(layout).told()) == ["2"]


def test_a_disk_that_nobody_sees_is_no_reason(layout: Layout, sizes: FrameSizes, tmp_path: Path) -> None:
    """A folder that isn't there yet will be made; one on another computer's disk isn't judged by this one's."""
    root = json.dumps({"FAR": dict.fromkeys(("hardware", "tiled", "clients"), str(tmp_path / "far" / "away"))})
    storage = {"QUEUESCOPE_STORAGE__ROOTS": root, "QUEUESCOPE_STORAGE__ROOT": "FAR"}
    here = room_for(load_scope("demo-dispim", environ=storage), layout, 5)
    assert here is not None
    assert (here.path, here.needed) == (tmp_path, 5)
    remote = storage | {"QUEUESCOPE_SERVICES__HARDWARE": "tcp://192.0.2.1:9999"}
    assert room_for(load_scope("demo-dispim", environ=remote), layout, 5) is None


def test_an_ample_disk_is_looked_at_once_for_rounds_in_quick_succession(
    layout: Layout, sizes: FrameSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 5: each look is a change of thread; where rounds could fill the disk within a moment every round looks."""
    scope = scope_keeping(0)
    space, looks = Space(scope, layout, templates(scope)), []
    room = space.room_for
    monkeypatch.setattr(space, "room_for", lambda frames: looks.append(frames) or room(frames))
    watch = RoundsWait(space, Waits(layout))
    free = room({"cam_a": 1})
    assert free is not None
    many = {"cam_a": free.free // FRAME // 2}

    def look(frames: dict[str, int]) -> None:
        assert asyncio.run(watch.look(Msg("disk_hold", None, frames))) is None

    for frames in ({"cam_a": 1}, {"cam_a": 1}, many, many):
        look(frames)
    assert looks == [{"cam_a": 1}, many, many]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    look({"cam_a": 1})
    assert looks[3:] == [{"cam_a": 1}]


def test_another_root_is_the_remedy(layout: Layout) -> None:
    roots = json.dumps({"DATA": {}, "ARCHIVE": dict.fromkeys(("hardware", "tiled", "clients"), "/mnt/archive")})
    room = room_for(load_scope("demo-dispim", environ={"QUEUESCOPE_STORAGE__ROOTS": roots}), layout)
    assert room is not None
    assert room.remedy == "queuescope archive --older-than 30d --to ARCHIVE"


@pytest.mark.parametrize("uid", ["../x", ".x", "a/b"])
def test_an_items_uid_is_no_path(layout: Layout, uid: str) -> None:
    with pytest.raises(ValueError, match="is no item's UID"):
        Waits(layout).clear(uid)
