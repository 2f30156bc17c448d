"""Keys of steps, and what a durable script records: R1."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from queuescope.agents import KeyFileError, StepError, keygen
from queuescope.agents._durable import Namespace
from queuescope.agents._keys import one_off_key, read_seed, step_key
from queuescope.agents._record import Record

SEED = bytes(range(32))
KEY = re.compile(r"[A-Za-z0-9._:-]{8,128}")
"""What the server takes."""


def test_a_seed_is_written_once(tmp_path: Path) -> None:
    """R1.1: 0600, whole or not at all, and never over another one; of many that try at once one wins."""
    path = tmp_path / "exec.key"

    def attempt(_: int) -> bool:
        try:
            return keygen(path) == path
        except KeyFileError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    seed = read_seed(path)
    assert len(seed) == 32
    with pytest.raises(KeyFileError, match="not overwritten"):
        keygen(path)
    assert read_seed(path) == seed
    assert [one.name for one in tmp_path.iterdir()] == ["exec.key"], "no draft is left"


def test_a_file_that_is_no_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="queuescope keygen"):
        read_seed(tmp_path / "none.key")
    (tmp_path / "other.key").write_text("hello")
    with pytest.raises(KeyFileError, match="64 hex"):
        read_seed(tmp_path / "other.key")
    with pytest.raises(KeyFileError, match="can't be written"):
        keygen(tmp_path / "no folder" / "exec.key")


def test_the_same_seed_and_step_give_the_same_key_in_every_process() -> None:
    """R1.1: pinned, since a later version that derived another one would run every step anew."""
    key = step_key(SEED, "night-3", "stack-1")
    assert key == "night-3:stack-1:28f7d73478218c077b4c813624c32a50"
    code = (
        "from queuescope.agents._keys import step_key; print(step_key(bytes(range(32)), 'night-3', 'stack-1'), end='')"
    )
    for salt in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
        )
        assert told.stdout == key


@pytest.mark.parametrize(
    ("namespace", "step"), [("", "a"), ("ä/ö" * 40, "Schritt Nr. 1: µm" * 30), ("a", ""), ("#", "#1")]
)
def test_every_step_has_a_key_that_the_server_takes(namespace: str, step: str) -> None:
    assert KEY.fullmatch(step_key(SEED, namespace, step))


def test_different_steps_have_different_keys() -> None:
    """R1.8: names that only look alike when they are put together, too."""
    pairs = [
        ("a", "b:c"),
        ("a:b", "c"),
        ("", "a:b:c"),
        ("a b", "c"),
        ("a-b", "c"),
        ("x" * 50 + "1", ""),
        ("x" * 50, "1"),
    ]
    assert len({step_key(SEED, *pair) for pair in pairs}) == len(pairs)
    assert step_key(SEED, "a", "b") != step_key(bytes(32), "a", "b")
    assert one_off_key("snap") != one_off_key("snap")


def test_steps_are_counted_in_the_order_of_the_calls() -> None:
    """R1.8: one counter for each kind, so that a number that is drawn doesn't move the operations."""
    first, again = Namespace("n", SEED), Namespace("n", SEED)
    keys = [first.key(None) for _ in range(3)]
    again.step("random", None)
    assert [again.key(None) for _ in range(3)] == keys
    assert len(set(keys)) == 3


def test_a_step_that_would_be_replayed_by_mistake_is_refused() -> None:
    """R1.8: the same name twice in a loop would take one image and say that it took two."""
    space = Namespace("n", SEED)
    key = space.key("stack")
    with pytest.raises(StepError, match="used before"):
        space.key("stack")
    space.release(key)
    assert space.key("stack") == key, "one that was lost sight of may be asked for again"
    with pytest.raises(StepError, match="is no name"):
        space.key("#1")


def test_counting_in_two_tasks_is_refused() -> None:
    """R1.8: which of them is first next time? Names are safe, and so is a namespace for each task."""
    space = Namespace("n", SEED)
    refused = []

    def elsewhere() -> None:
        space.key("named")
        try:
            space.key(None)
        except StepError as error:
            refused.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "give it a name" in refused[0]

    async def main() -> None:
        inside = Namespace("n", SEED)
        inside.key(None)

        async def task() -> None:
            inside.key("also named")
            with pytest.raises(StepError):
                inside.key(None)

        await asyncio.create_task(task())

    asyncio.run(main())


def test_what_was_recorded_first_counts(tmp_path: Path) -> None:
    """R1.13: for every process, and whatever it is."""
    keyfile = tmp_path / "exec.key"
    record = Record(keyfile)
    assert record.read("server", "night", "random #1") is None
    assert record.write("server", "night", "random #1", 0.25) == 0.25
    code = (
        "import sys; from queuescope.agents._record import Record;"
        "print(Record(sys.argv[1]).write('server', 'night', 'random #1', 0.75), end='')"
    )
    told = subprocess.run([sys.executable, "-c", code, str(keyfile)], capture_output=True, text=True, check=True)
    assert told.stdout == "0.25"
    assert record.read("server", "night", "random #1") == (0.25,)
    assert record.read("another", "night", "random #1") is None
    assert record.write("server", "night", "nothing", None) is None
    assert record.read("server", "night", "nothing") == (None,)
    assert record.write("server", "night", "pair", (1, {"a": 2})) == [1, {"a": 2}], "as it will be read"
    assert stat.S_IMODE(Path(f"{keyfile}.record").stat().st_mode) == 0o600


@pytest.mark.parametrize("value", [object(), float("nan"), {1: set()}])
def test_what_can_not_be_replayed_is_not_recorded(tmp_path: Path, value: object) -> None:
    """R1.13."""
    record = Record(tmp_path / "exec.key")
    with pytest.raises((TypeError, ValueError)):
        record.write("server", "night", "step", value)
    assert record.read("server", "night", "step") is None


def test_of_many_at_once_all_get_the_same(tmp_path: Path) -> None:
    """R1.13."""
    record = Record(tmp_path / "exec.key")
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: record.write("server", "night", "which", n), range(16)))
    assert len(set(told)) == 1
    assert json.dumps(told[0]) == json.dumps(record.read("server", "night", "which")[0])  # type: ignore[index]
