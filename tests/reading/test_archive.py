"""``queuescope archive`` and ``compress``: a run is what it was, wherever its files lie."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner, Result

from queuescope.agents._where import Whereabouts
from queuescope.config import Scope, load_scope
from queuescope.layout import Layout, Moved, frames_on_disk
from queuescope.reading import RunLog, open_volume
from queuescope.scripts._archive import ArchiveError, age_s
from queuescope.scripts._compress import CODECS, choose
from queuescope.scripts.cli import complete_app
from queuescope.server._image import read_image
from queuescope.server._problems import Problem
from queuescope.server._register import Register, register
from queuescope.server._runs import read_run

Command = Callable[..., Result]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def scope(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Scope:
    """The demo scope with two more storage roots, one of them on no disk that is mounted."""
    (tmp_path / "archive").mkdir()
    roots = {"DATA": {}, "ARCHIVE": tmp_path / "archive", "AWAY": tmp_path / "away"}
    words = {name: dict.fromkeys(("hardware", "tiled", "clients"), str(path)) for name, path in roots.items() if path}
    monkeypatch.setenv("QUEUESCOPE_STORAGE__ROOTS", json.dumps({"DATA": {}, **words}))
    monkeypatch.setenv("QUEUESCOPE_DATA", str(layout.data))
    monkeypatch.setenv("QUEUESCOPE_SCOPE", "demo-dispim")
    return load_scope("demo-dispim")


@pytest.fixture
def command(scope: Scope) -> Command:
    """``queuescope WORDS``, in this process."""
    return lambda *words: CliRunner().invoke(complete_app(), words, catch_exceptions=False)


@pytest.fixture
def run(layout: Layout, write_run: Callable[..., Any]) -> Any:
    """Two cameras; images that can be compressed."""
    run = write_run(layout, brightest=40)
    run.dataset("cam_a", frames=3, shape=(64, 48))
    run.dataset("cam_b", frames=2, shape=(60, 70), dtype="uint8")
    return run.end()


def facts(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def read_everywhere(scope: Scope, layout: Layout, run: Any, folder: Path) -> None:
    """Every way that a run is read, but for Tiled's own: ``tests/tiled/test_archived.py``."""
    log = RunLog.read(layout, run.uid)
    told = {dataset.name: dataset for dataset in read_run(scope, layout, run.uid, None).datasets}
    where = Whereabouts(layout, {})
    for name, taken in run.frames.items():
        path = log.datasets[name].path(layout, scope, "tiled")
        assert path == folder / "volumes" / f"{run.uid}_{name}.ome.zarr"
        assert (told[name].path, told[name].frames_written) == (str(path), len(taken))
        assert told[name].uri == f"data://DATA/volumes/{run.uid}_{name}.ome.zarr"
        volume = where.volume(run.uid, name, log, lambda: None)
        assert volume is not None
        assert volume.path == path
        np.testing.assert_array_equal(np.asarray(volume.stack()), np.array(taken))
        np.testing.assert_array_equal(np.asarray(zarr.open_array(path / "0", mode="r")), np.array(taken))
        shown, _ = read_image(scope, layout, run.uid, name, "0", None, 1)
        assert shown.frames == 1


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("how", [(), ("--compress", "zstd")], ids=["as it is", "compressed"])
def test_an_archived_run_is_read_as_before(
    command: Command, scope: Scope, layout: Layout, run: Any, tmp_path: Path, how: tuple[str, ...]
) -> None:
    """Issue 4, item 9: copy, verify, repoint, then delete; REST, client, verify and export find it; and back again."""
    archive = tmp_path / "archive"
    read_everywhere(scope, layout, run, layout.data)
    done = command("archive", run.uid, "--to", "ARCHIVE", "--json", *how)
    assert done.exit_code == 0, done.stderr
    [moved] = facts(done)["runs"]
    assert [(d["name"], d["root"], d["frames"]) for d in moved["datasets"]] == [
        ("cam_a", "ARCHIVE", 3),
        ("cam_b", "ARCHIVE", 2),
    ]
    assert all((d["bytes"] < d["bytes_before"], d["codec"] is not None) == (bool(how),) * 2 for d in moved["datasets"])
    assert list(layout.volumes.iterdir()) == []
    assert hidden(tmp_path) == []
    read_everywhere(scope, layout, run, archive)
    assert command("verify", run.uid).exit_code == 0
    exported = command("export", run.uid, "--format", "tiff-stack", "--to", str(tmp_path / "out"))
    assert exported.exit_code == 0, exported.stderr
    again = command("archive", run.uid, "--to", "ARCHIVE")
    assert again.exit_code == 1
    assert f"run {run.uid} is in ARCHIVE already" in again.stderr

    assert command("archive", run.uid, "--to", "DATA").exit_code == 0
    read_everywhere(scope, layout, run, layout.data)
    assert list((archive / "volumes").iterdir()) == []
    assert [path for path in layout.moved.rglob("*") if path.is_file()] == []
    assert command("verify", run.uid).exit_code == 0


def test_compressed_in_place_it_keeps_its_path(command: Command, scope: Scope, layout: Layout, run: Any) -> None:
    """Issue 4, item 2: lossless compression off the hot path; checksums are of pixels, so `verify` goes on."""
    client = Whereabouts(layout, {})
    log = RunLog.read(layout, run.uid)
    before = client.volume(run.uid, "cam_a", log, lambda: None)
    assert before is not None
    before.frame(0)
    plan = command("compress", run.uid, "--dry-run", "--json")
    assert plan.exit_code == 0
    assert facts(plan)["dry_run"] is True
    done = command("compress", run.uid, "--json")
    assert done.exit_code == 0, done.stderr
    [told] = facts(done)["runs"]
    assert all(d["bytes"] < d["bytes_before"] and d["root"] == "DATA" for d in told["datasets"])
    read_everywhere(scope, layout, run, layout.data)
    assert hidden(layout.data) == []
    assert not list(layout.moved.rglob("*.ome.zarr"))
    codecs = json.loads((run.volume("cam_a") / "0" / "zarr.json").read_text())["codecs"]
    assert [codec["name"] for codec in codecs] in (["bytes", "zstd"], ["bytes", "blosc"])
    after = client.volume(run.uid, "cam_a", log, lambda: None)
    assert after is not None
    np.testing.assert_array_equal(after.frame(0), run.frames["cam_a"][0])
    assert command("verify", run.uid).exit_code == 0
    again = command("compress", run.uid)
    assert again.exit_code == 1
    assert "cam_a is compressed already; cam_b is compressed already" in again.stderr


def test_a_codec_is_chosen_by_the_frames(layout: Layout, write_run: Callable[..., Any]) -> None:
    """Plain zstd where images repeat themselves, shuffled blosc where they are noise in few bits; none where nothing helps."""
    noise = write_run(layout, brightest=40)
    noise.dataset("cam_a", frames=3, shape=(128, 128))
    chosen = choose(open_volume(noise.volume()))
    assert chosen is not None
    assert chosen.name.startswith("blosc")
    flat = write_run(layout, brightest=1)
    flat.dataset("cam_a", frames=1, shape=(128, 128))
    assert choose(open_volume(flat.volume())) is CODECS[0]
    full = write_run(layout)
    full.dataset("cam_a", frames=1, shape=(128, 128))
    assert choose(open_volume(full.volume())) is None


def test_a_black_frame_keeps_its_chunk(
    command: Command, scope: Scope, layout: Layout, write_run: Callable[..., Any]
) -> None:
    """zarr itself leaves out chunks of the fill value, and a missing frame is an error here."""
    run = write_run(layout, brightest=1)
    run.dataset("cam_a", frames=2)
    run.end()
    assert command("compress", run.uid).exit_code == 0
    assert run.chunk(1).exists()
    assert command("verify", run.uid).exit_code == 0


def test_what_does_not_get_smaller_stays_as_it_is(
    command: Command, scope: Scope, layout: Layout, write_run: Callable[..., Any], tmp_path: Path
) -> None:
    run = write_run(layout)
    run.dataset("cam_a", frames=2)
    run.end()
    done = command("compress", run.uid)
    assert done.exit_code == 1
    assert "cam_a doesn't get smaller" in done.stderr
    moved = command("archive", run.uid, "--to", "ARCHIVE", "--compress", "zstd", "--json")
    assert moved.exit_code == 0, moved.stderr
    assert facts(moved)["runs"][0]["datasets"][0]["codec"] is None
    read_everywhere(scope, layout, run, tmp_path / "archive")


ARCHIVE = ("archive", "--to", "ARCHIVE")


@pytest.mark.parametrize("words", [ARCHIVE, (*ARCHIVE, "--compress", "zstd"), ("compress",)])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_run_is_not_made_to_last(
    command: Command, layout: Layout, run: Any, tmp_path: Path, words: tuple[str, ...], damage: str
) -> None:
    """Every frame of the copy is held against its checksum; nothing is removed."""
    chunk = run.chunk(1)
    if damage == "missing":
        chunk.unlink()
    else:
        pixels = bytearray(chunk.read_bytes())
        pixels[9] ^= 1
        chunk.write_bytes(pixels)
    left = sorted(layout.volumes.rglob("*"))
    done = command(words[0], run.uid, *words[1:])
    assert done.exit_code == 1
    assert "frame 1" in done.stderr
    assert "nothing was removed" in done.stderr
    assert sorted(layout.volumes.rglob("*")) == left
    assert hidden(tmp_path) == []
    assert not list((tmp_path / "archive").rglob("*.json*"))


def test_a_registered_file_is_compared_byte_by_byte(
    command: Command, scope: Scope, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checksums; its place in the other root is the one that its uri names."""
    layout.create()
    pixels = np.arange(2 * 8 * 8, dtype="<f4").reshape(2, 8, 8)
    zarr.create_array(layout.data / "results/day 1/masks.ome.zarr/0", data=pixels, chunks=(2, 4, 4))
    uri = "data://DATA/results/day 1/masks.ome.zarr"
    uid, _ = register(scope, layout, Register(uri=uri, dataset="masks"), "admin")
    copy2 = shutil.copy2

    def careless(source: Path, target: Path) -> None:
        copy2(source, target)
        if Path(source).parent.name == "1":
            Path(target).write_bytes(b"\0" + Path(source).read_bytes()[1:])

    with monkeypatch.context() as patch:
        patch.setattr("queuescope.scripts._relocate.shutil.copy2", careless)
        done = command("archive", uid, "--to", "ARCHIVE")
    assert done.exit_code == 1
    assert "differs from" in done.stderr
    assert command("archive", uid, "--to", "ARCHIVE", "--compress", "zstd").exit_code == 0
    [dataset] = read_run(scope, layout, uid, None).datasets
    there = tmp_path / "archive/results/day 1/masks.ome.zarr"
    assert (dataset.uri, dataset.path) == (uri, str(there))
    np.testing.assert_array_equal(np.asarray(open_volume(there).stack()), pixels)
    assert not (layout.data / "results/day 1/masks.ome.zarr").exists()
    assert register(scope, layout, Register(uri=uri, dataset="masks"), "admin") == (uid, False)
    refused = command("compress", uid)
    assert "masks was registered: its files are somebody else's" in refused.stderr


def test_an_archived_run_cannot_be_registered_as_another(
    command: Command, scope: Scope, layout: Layout, run: Any
) -> None:
    assert command("archive", run.uid, "--to", "ARCHIVE").exit_code == 0
    for root in ("DATA", "ARCHIVE"):
        with pytest.raises(Problem, match=f"belongs to run {run.uid}"):
            register(scope, layout, Register(uri=f"data://{root}/volumes/{run.uid}_cam_a.ome.zarr"), "admin")


def test_what_cannot_be_moved_says_why(
    command: Command, layout: Layout, run: Any, write_run: Callable[..., Any], tmp_path: Path
) -> None:
    growing = write_run(layout)
    growing.dataset("cam_a", frames=1, planned=5)
    empty = write_run(layout).end()
    half = write_run(layout)
    half.dataset("cam_a", frames=1)
    half.end()
    (layout.services / "unfinished").mkdir(parents=True)
    (layout.services / "unfinished" / half.volume().name).write_text(str(half.volume()))
    gone = write_run(layout)
    gone.dataset("cam_a", frames=1)
    gone.end()
    gone.volume().rename(tmp_path / "elsewhere")
    for words, said in (
        ((growing.uid, "--to", "ARCHIVE"), "still grows"),
        ((empty.uid, "--to", "ARCHIVE"), "has no files"),
        ((half.uid, "--to", "ARCHIVE"), "was left unfinished by a dead process: 'queuescope up' finishes it first"),
        ((gone.uid, "--to", "ARCHIVE"), "is not there: mount its storage root"),
        (("0000-0000", "--to", "ARCHIVE"), "no run 0000-0000 is known"),
        ((run.uid, "--to", "TAPE"), "no storage root 'TAPE': the scope has ARCHIVE, AWAY, DATA"),
        ((run.uid, "--to", "AWAY"), "the folder of the storage root AWAY, is not there: mount or make it"),
        ((run.uid, "--to", "DATA"), "is in DATA already"),
        ((run.uid,), "name the storage root to move to"),
        (("--to", "ARCHIVE"), "name one run, or runs by their age"),
        ((run.uid, "--older-than", "1d", "--to", "ARCHIVE"), "name one run, or runs by their age"),
        (("--older-than", "soon", "--to", "ARCHIVE"), "'soon' is no duration"),
        ((run.uid, "--to", "ARCHIVE", "--compress", "jpeg"), "no compression 'jpeg'"),
    ):
        done = command("archive", *words)
        assert done.exit_code == 1, words
        assert said in " ".join(done.stderr.split()), words
    assert not (tmp_path / "away").exists()
    assert [age_s(text) for text in ("90m", "12h", "30d", "2w", "0.5d")] == [5400, 43200, 2592000, 1209600, 43200]
    for text in ("", "d", "-1d", "1y", "nan d"):
        with pytest.raises(ArchiveError, match="is no duration"):
            age_s(text)


def test_nothing_is_overwritten(command: Command, scope: Scope, layout: Layout, run: Any, tmp_path: Path) -> None:
    """What has the name already stays, unless it is this very dataset."""
    name = f"{run.uid}_cam_a"
    taken = tmp_path / "archive" / "volumes" / f"{name}.ome.zarr"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    done = command("archive", run.uid, "--to", "ARCHIVE")
    assert done.exit_code == 1
    assert f"{taken} exists already and isn't this dataset" in done.stderr
    assert (taken / "notes.txt").read_text() == "mine"
    read_everywhere(scope, layout, run, layout.data)
    subprocess.run(["rm", "-r", str(taken)], check=True)
    subprocess.run(["cp", "-r", *layout.volumes.glob(f"{name}*"), taken.parent], check=True)
    assert command("archive", run.uid, "--to", "ARCHIVE").exit_code == 0, "a copy that is whole is taken as it is"
    read_everywhere(scope, layout, run, tmp_path / "archive")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB at the archive's place."""
    folder = tmp_path / "archive"
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_an_archive_without_room_is_refused(
    command: Command, scope: Scope, layout: Layout, run: Any, small_disk: Path
) -> None:
    done = command("archive", run.uid, "--to", "ARCHIVE")
    assert done.exit_code == 1
    assert f"not enough space in {small_disk}: the run needs" in done.stderr
    read_everywhere(scope, layout, run, layout.data)


def test_acquisitions_keep_their_room(
    command: Command, scope: Scope, layout: Layout, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk of the volumes nothing is built into what is kept for acquiring."""
    monkeypatch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "1e6")
    for words in (("archive", run.uid, "--to", "ARCHIVE"), ("compress", run.uid)):
        done = command(*words)
        assert done.exit_code == 1
        assert "1000000.00 GB must stay free (scope file: storage.min_free_gb)" in done.stderr


def test_old_runs_are_moved_together(
    command: Command, scope: Scope, layout: Layout, write_run: Callable[..., Any], tmp_path: Path
) -> None:
    """By the age of their end; one that can't be moved keeps no other from it, and is named."""
    old = [write_run(layout) for _ in range(2)]
    for run in old:
        run.dataset("cam_a", frames=1)
        run.end()
    young = write_run(layout)
    young.dataset("cam_a", frames=1)
    young.document("stop", {"uid": "s", "run_start": young.uid, "time": time.time(), "exit_status": "success"})
    broken = write_run(layout)
    broken.dataset("cam_a", frames=1)
    broken.end()
    broken.chunk(0).unlink()
    planned = facts(command("archive", "--older-than", "30d", "--to", "ARCHIVE", "--dry-run", "--json"))
    assert {r["uid"] for r in planned["runs"]} == {*(run.uid for run in old), broken.uid}
    assert not (tmp_path / "archive" / "volumes").exists()
    done = command("archive", "--older-than", "30d", "--to", "ARCHIVE", "--json")
    assert done.exit_code == 1
    told = {r["uid"]: r["error"] for r in facts(done)["runs"]}
    assert told.keys() == {*(run.uid for run in old), broken.uid}
    assert "frame 0 is missing" in told[broken.uid]
    for run in old:
        assert told[run.uid] is None
        read_everywhere(scope, layout, run, tmp_path / "archive")
    assert young.volume().exists()
    again = facts(command("archive", "--older-than", "30d", "--to", "ARCHIVE", "--json"))
    assert [r["uid"] for r in again["runs"]] == [broken.uid], "those that are there already are no news"


def test_two_archives_do_not_meet(command: Command, layout: Layout, run: Any) -> None:
    layout.services.mkdir(parents=True)
    with (layout.services / "archive.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = command("archive", run.uid, "--to", "ARCHIVE")
    assert done.exit_code == 1
    assert "another archive or compress works on" in done.stderr


def test_a_disk_that_is_away_costs_nothing(
    command: Command, scope: Scope, layout: Layout, run: Any, tmp_path: Path
) -> None:
    """A run whose archive isn't mounted says so; what is left to be removed waits until its copy is seen."""
    uri = f"data://DATA/volumes/{run.uid}_cam_a.ome.zarr"
    assert command("archive", run.uid, "--to", "ARCHIVE").exit_code == 0
    pending = Moved.read(layout, uri)
    assert pending is not None
    Moved(pending.places, remove=uri).write(layout, uri)
    (tmp_path / "archive").rename(tmp_path / "unplugged")
    volume = RunLog.read(layout, run.uid).datasets["cam_a"].path(layout, scope, "tiled")
    assert volume is not None
    assert frames_on_disk(volume) is None
    done = command("archive", run.uid, "--to", "DATA")
    assert done.exit_code == 1
    assert "is not there: mount its storage root" in done.stderr
    (tmp_path / "unplugged").rename(tmp_path / "archive")
    assert command("archive", run.uid, "--to", "DATA").exit_code == 0
    read_everywhere(scope, layout, run, layout.data)


def test_a_damaged_pointer_is_told(command: Command, layout: Layout, run: Any) -> None:
    assert command("archive", run.uid, "--to", "ARCHIVE").exit_code == 0
    pointer = layout.moved / "DATA" / "volumes" / f"{run.uid}_cam_a.ome.zarr"
    pointer.write_text("{}")
    done = command("archive", run.uid, "--to", "DATA")
    assert done.exit_code == 1
    assert f"{pointer} doesn't say where" in done.stderr
