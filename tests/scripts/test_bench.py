"""The quick forms of the recorder's benchmarks: real stacks, real peers, and the contract of what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import typer

from queuescope.benchmarks.kills import DIRECTED, drawn
from queuescope.scripts._bench_commands import span


def bench(name: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "queuescope.scripts", "bench", name, "--quick", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["bench"] == name
    assert all(set(row) == {"case", "metric", "median", "min", "max", "n"} for row in found["rows"])
    assert all(row["min"] <= row["median"] <= row["max"] for row in found["rows"])
    assert found["ratios"]
    assert all(ratio > 0 for ratio in found["ratios"].values())
    return found


def test_bench_record_counts_every_frame() -> None:
    """No frame of the recorder is dropped, with one camera and with two; how fast is no test's business."""
    found = bench("record")
    dropped = {row["case"]: row["max"] for row in found["rows"] if row["metric"] == "dropped"}
    assert {case for case in dropped if "queuescope" in case} == {
        f"0 ms exposure, queuescope{more}" for more in ("", ", two cameras")
    }
    assert not any(value for case, value in dropped.items() if "queuescope" in case)


@pytest.mark.parametrize("name", ["stack"])
def test_bench_prints_its_table(name: str) -> None:
    cases = {row["case"] for row in bench(name)["rows"]}
    assert {"queuescope, z_stack", "mda.run, tifffile"} <= cases


def test_bench_latency_prints_us_and_the_stock_queue_server() -> None:
    """blueapi would be downloaded: it is left out here."""
    found = bench("latency", "--without", "blueapi")
    cases = {row["case"] for row in found["rows"] if row["metric"] == "plans_per_s"}
    assert cases == {"queuescope", "queueserver + httpserver"}
    assert {"ledger", "100 operations"} <= {row["case"] for row in found["rows"]}


def test_a_storm_of_retries_acquires_once_a_key() -> None:
    """R1.2, R1.4, R1.6: counted inside the camera; 10,000 requests without --quick."""
    assert bench("storm")["ratios"]["exposures / keys"] == 1.0


def test_kills_at_named_points_lose_and_repeat_nothing() -> None:
    """R1.4, R1.5: four of them; `bench kills --faults 600` for all."""
    command = [sys.executable, "-m", "queuescope.scripts", "bench", "kills", "--quick", "--json", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ratios"]["violations"] == 0.0


def test_a_campaign_of_kills_is_the_same_in_parts() -> None:
    """R1.4: 16 points 25 times and 200 at random; a seed draws them again, so `--only` takes its part of the whole."""
    kills = drawn(600, seed=1)
    counts = Counter((whom, when) for _, whom, when in kills if when is not None)
    assert counts == dict.fromkeys(DIRECTED, 25)
    assert len(DIRECTED) == 16
    assert (len(kills), sum(when is None for _, _, when in kills)) == (600, 200)
    assert drawn(600, seed=1) == kills != drawn(600, seed=2)
    assert span("301-600") == (301, 600)
    for wrong in ("600-301", "0-5", "7"):
        with pytest.raises(typer.Exit):
            span(wrong)
