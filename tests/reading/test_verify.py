"""``queuescope verify``: every frame on disk against the checksum made at the camera."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from queuescope.formats import Format
from queuescope.layout import Layout
from queuescope.scripts.cli import complete_app

Command = Callable[..., Result]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def verify(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``queuescope verify WORDS`` on the data directory, in this process."""
    monkeypatch.setenv("QUEUESCOPE_DATA", str(layout.data))
    monkeypatch.setenv("QUEUESCOPE_SCOPE", "demo-dispim")
    return lambda *words: CliRunner().invoke(complete_app(), ["verify", *words], catch_exceptions=False)


@pytest.fixture
def run(layout: Layout, write_run: Callable[..., Any]) -> Any:
    """A finished run: three frames of one camera, two of another."""
    return finished(write_run(layout))


@pytest.fixture
def either(layout: Layout, write_run: Callable[..., Any], volume_format: Format) -> Any:
    """The same in each format."""
    return finished(write_run(layout, form=volume_format))


def finished(run: Any) -> Any:
    run.dataset("cam_a", frames=3)
    run.dataset("cam_b", frames=2, dtype="uint8")
    return run.end()


def facts(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def test_a_run_as_it_was_taken_is_good(verify: Command, either: Any) -> None:
    """R3.2, issue 4 item 2: checksums from frames.jsonl against the bytes."""
    run = either
    done = verify(run.uid, "--json")
    assert done.exit_code == 0
    found = facts(done)
    assert found["ok"] is True
    [checked] = found["runs"]
    assert (checked["uid"], checked["ok"], checked["growing"]) == (run.uid, True, False)
    assert [(d["name"], d["frames"], d["bytes"], d["bad"]) for d in checked["datasets"]] == [
        ("cam_a", 3, 3 * 768, []),
        ("cam_b", 2, 2 * 384, []),
    ]
    words = verify(run.uid).stdout
    assert f"run {run.uid}: as taken" in words
    assert "cam_a: 3 of 3 frames good" in words


def test_one_changed_bit_is_found_and_named(verify: Command, either: Any) -> None:
    run = either
    run.spoil(1)
    done = verify(run.uid, "--json")
    assert done.exit_code == 1
    found = facts(done)
    assert found["ok"] is False
    cam_a, cam_b = found["runs"][0]["datasets"]
    assert (cam_a["bad"], cam_b["problems"]) == ([1], [])
    assert f"{run.volume().name}: frame 1 has checksum xxh3_128:" in cam_a["problems"][0]
    assert "NOT as taken" in verify(run.uid).stdout


def test_every_missing_or_short_frame_is_named(verify: Command, run: Any) -> None:
    """R3.12 how many frames are good is said."""
    run.chunk(0).unlink()
    run.chunk(2).write_bytes(run.chunk(2).read_bytes()[:100])
    done = verify(run.uid)
    assert done.exit_code == 1
    assert "cam_a: 1 of 3 frames good" in done.stdout
    assert "frame 0 is missing" in done.stdout
    assert "frame 2 has 100 bytes instead of 768" in done.stdout


def test_frames_that_the_list_has_lost_are_missed(verify: Command, run: Any) -> None:
    """The stop document says how many there were, also where nothing else told of the dataset."""
    lines = run.frame_list("cam_b").read_text().splitlines(keepends=True)
    run.frame_list("cam_b").write_text(lines[0])
    done = verify(run.uid, "--json")
    assert done.exit_code == 1
    assert "the stop document counts 2 frames" in facts(done)["runs"][0]["datasets"][1]["problems"][0]


def test_frames_that_no_document_told_of_are_checked_too(
    verify: Command, layout: Layout, write_run: Callable[..., Any], volume_format: Format
) -> None:
    """In whichever format they lie there, the scope's or the plan's."""
    run = write_run(layout, status="fail", form=volume_format)
    run.dataset("cam_a", frames=2, planned=5, told=False)
    run.end()
    run.spoil(1)
    done = verify(run.uid, "--json")
    assert done.exit_code == 1
    assert facts(done)["runs"][0]["datasets"][0]["bad"] == [1]


def test_a_growing_run_is_checked_as_far_as_it_counts(
    verify: Command, layout: Layout, write_run: Callable[..., Any]
) -> None:
    run = write_run(layout)
    run.dataset("cam_a", frames=2, planned=5)
    done = verify(run.uid)
    assert done.exit_code == 0
    assert "(still growing)" in done.stdout
    assert "2 of 2 frames good" in done.stdout


def test_all_looks_at_every_run(verify: Command, run: Any, layout: Layout, write_run: Callable[..., Any]) -> None:
    other = write_run(layout)
    other.dataset("cam_a", frames=1)
    other.end()
    begun = layout.document_log("0000-begun")
    begun.write_text("")
    assert "2 of 2 runs are as they were taken" in verify("--all").stdout
    other.chunk(0).unlink()
    broken = layout.document_log("0000-broken")
    broken.write_text("nonsense\n")
    done = verify("--all", "--json")
    assert done.exit_code == 1
    assert {r["uid"]: r["ok"] for r in facts(done)["runs"]} == {
        run.uid: True,
        other.uid: False,
        "0000-broken": False,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "name one run, or --all"), (("--all", "x"), "name one run"), (("0000-0000",), "no run 0000-0000 is known")],
)
def test_what_cannot_be_checked_is_an_error(verify: Command, words: tuple[str, ...], said: str) -> None:
    done = verify(*words)
    assert done.exit_code == 1
    assert said in done.stderr


def test_a_volume_that_is_away_is_named(verify: Command, run: Any) -> None:
    run.volume("cam_a").rename(run.volume("cam_a").with_name("elsewhere"))
    done = verify(run.uid)
    assert done.exit_code == 1
    assert "cam_a.ome.zarr is not there" in done.stdout
