"""`bench catalog` measures what it says it measures."""

from __future__ import annotations

import json
import subprocess
import sys

CASES = ("by UID, new client", "by UID", "by the first 8 of its UID", "newest", "search by sample", "its readings")
LAGS = (
    "lag at 20 events/s",
    "lag behind a burst, 300 documents in 2.5 s",
    "lag behind a burst, one document of 300 frames",
)


def test_the_quick_form_gives_every_row() -> None:
    """Issue 4, "Done when": opening a run by UID in a small and a larger catalog, each the run that was asked for; and the lags.
    How long it takes is for a quiet machine to say.
    """
    command = [sys.executable, "-m", "queuescope.scripts", "bench", "catalog", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    n = {(row["case"], row["metric"]): row["n"] for row in result["rows"]}
    opened = {(f"{case}, {runs} runs", "ms"): 2 for case in CASES for runs in (4, 40)}
    assert n == opened | {(case, "seconds"): 1 for case in LAGS}
    assert len(result["ratios"]) == len(CASES) + len(LAGS)
    assert all(row["min"] > 0 for row in result["rows"])
