"""An axis that isn't where it was left is locked until a person confirms it (R5.8)."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import SURFACE, ArgumentError, ReferenceLostError, connect
from queuescope.layout import Layout

WATCHED = [
    ("kind: stage, limits: [-50, 250], home: 0, reference: none}", "kind: stage, limits: [-50, 250], home: 0}"),
    (
        'f:        {label: "ZStage:V:37", kind: stage, limits: [-200, 200], home: 0, reference: none}',
        'f:        {label: "ZStage:V:37", kind: stage, limits: [-200, 200], home: 0, reference: manual}',
    ),
]


@pytest.fixture
def scope(tmp_path: Path, make_scope: Callable[..., Any]) -> Any:
    return make_scope(tmp_path, scope=WATCHED)


@pytest.fixture
def watched(scope: Any, tmp_path: Path) -> Iterator[Any]:
    """z is watched, f has a joystick, the others forget their positions."""
    connected = connect(scope, Layout(tmp_path / "data"))
    yield connected
    connected.close()


def nudge(hardware: Any, label: str, position: float) -> None:
    """What a power cycle, or a hand, does."""
    mm = hardware._microscope._core.mm
    mm.setPosition(label, position)
    mm.waitForDevice(label)


def test_a_jump_locks_the_axis_until_a_person_confirms(watched: Any) -> None:
    """R5.8: the error says where it was left and where it stands; the lock holds when it jumps back."""
    watched.move({"z": 20})
    nudge(watched, "ZStage:Z:32", 0)
    with pytest.raises(ReferenceLostError, match="z was left at 20 and stood at 0 um") as caught:
        watched.move({"z": 21})
    assert caught.value.fields == {"thing": "z", "value": 0.0, "limit": 20.0}
    assert watched.positions(("z",)) == {"z": 0}
    nudge(watched, "ZStage:Z:32", 20)
    with pytest.raises(ReferenceLostError):
        watched.move({"f": 3, "z": 20})
    assert watched.positions(("f",)) == {"f": 0}
    assert list(watched.state().reference_lost) == ["z"]
    watched.move({"f": 3})
    with pytest.raises(ArgumentError, match="say who confirms"):
        watched.confirm_reference("z", " ")
    assert watched.confirm_reference("z", "Ada") == 20
    assert watched.state().reference_lost == {}
    assert watched.move({"z": 21}) == {"z": 21}


def test_a_joystick_is_no_jump(watched: Any) -> None:
    """R5.7, R5.8: an axis that people move by hand is compared only over a restart."""
    watched.move({"f": 20})
    nudge(watched, "ZStage:V:37", 10)
    assert watched.move({"f": 5}) == {"f": 5}


def test_an_axis_that_was_stopped_may_stand_anywhere(watched: Any) -> None:
    """R5.8: a stop isn't a jump; standing still and being stopped forgets nothing."""
    watched.move({"z": 20})
    watched.stop()
    nudge(watched, "ZStage:Z:32", 0)
    with pytest.raises(ReferenceLostError):
        watched.move({"z": 1})
    watched.confirm_reference("z", "Ada")
    drive = watched._microscope._axes._drives["z"]
    drive.moving = True
    watched.stop(("z",))
    drive.moving = False
    nudge(watched, "ZStage:Z:32", 7)
    assert watched.move({"z": 8}) == {"z": 8}


def test_a_power_cycle_between_two_processes_is_noticed(scope: Any, tmp_path: Path) -> None:
    """R5.8: the demo stages stand at 0 after loading; the lock itself survives a restart, and so does its end."""
    layout = Layout(tmp_path / "data")
    first = connect(scope, layout)
    first.move({"z": 20, "f": 10, "piezo_a": 30})
    first.close()
    second = connect(scope, layout)
    assert sorted(second.state().reference_lost) == ["f", "z"]
    with pytest.raises(ReferenceLostError, match="queuescope confirm z"):
        second.move({"z": 0})
    second.close()
    third = connect(scope, layout)
    assert sorted(third.state().reference_lost) == ["f", "z"]
    third.confirm_reference("z", "Ada")
    third.confirm_reference("f", "Ada")
    third.close()
    fourth = connect(scope, layout)
    assert fourth.move({"z": 1}) == {"z": 1}
    fourth.close()


def test_a_killed_process_leaves_what_was_expected(
    tmp_path: Path, make_scope: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """R5.8: written at every move, so kill -9 hides no jump."""
    scope, layout = make_scope(tmp_path, "own", scope=WATCHED), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout)
    hardware.move({"z": 20})
    process.signal(signal.SIGKILL)
    process.wait()
    hardware.close()
    start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout)
    with pytest.raises(ReferenceLostError, match="left at 20 and stood at 0"):
        hardware.move({"z": 1})
    hardware.close()


def test_a_move_cut_short_by_a_kill_may_end_anywhere_on_its_way(scope: Any, tmp_path: Path) -> None:
    """R5.8: between start and target nothing was lost; beyond, it was."""
    layout = Layout(tmp_path / "data")
    layout.create()
    file = layout.services / "references.json"
    for span, lost in (([-10, 5], []), ([3, 20], ["z"])):
        file.write_text(json.dumps({"expected": {"z": span}, "lost": {}}))
        hardware = connect(scope, layout)
        assert list(hardware.state().reference_lost) == lost
        hardware.close()


def test_what_an_outage_garbled_counts_as_lost(scope: Any, tmp_path: Path) -> None:
    """R5.8: fail closed."""
    layout = Layout(tmp_path / "data")
    layout.create()
    (layout.services / "references.json").write_text('{"expected": {"z"')
    hardware = connect(scope, layout)
    assert sorted(hardware.state().reference_lost) == ["f", "z"]
    hardware.close()


def test_no_call_homes_or_sets_an_origin(watched: Any) -> None:
    """R5.8: what could move the zero isn't on the surface, and no plan or device leads to the confirmation."""
    assert not [name for name in SURFACE if "home" in name.lower() or "origin" in name.lower()]
    from queuescope import devices, plans

    for package in (devices, plans):
        for source in Path(str(package.__file__)).parent.glob("*.py"):
            assert "confirm_reference" not in source.read_text(encoding="utf-8"), source
