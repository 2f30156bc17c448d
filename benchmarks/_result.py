"""What a benchmark gives: rows of medians, and the ratios that matter."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Tell = Callable[[str], None]
"""Takes a line about what is measured now."""


@dataclass(frozen=True)
class Row:
    """One case: n repetitions of one metric."""

    case: str
    metric: str
    """Name with its unit: ``seconds``, ``frames_per_s``."""
    median: float
    min: float
    max: float
    n: int


@dataclass(frozen=True)
class Result:
    bench: str
    rows: list[Row]
    ratios: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What must not be, and was found: the exit code is 1 then."""

    def as_json(self) -> dict[str, Any]:
        """``{"bench": NAME, "rows": [{"case", "metric", "median", "min", "max", "n"}…], "ratios": {NAME: X}}``."""
        tree = asdict(self)
        del tree["problems"]
        return tree


def row(case: str, metric: str, values: Sequence[float]) -> Row:
    """The row of these repetitions."""
    import statistics  # not for the help of `queuescope bench`

    return Row(case, metric, statistics.median(values), min(values), max(values), len(values))


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_"))


def result_of(name: str, quick: bool, tell: Tell, **options: Any) -> Result:
    """Run a benchmark. ``quick``: fewer repetitions; ``options``: those of its ``measure``, a `TypeError` where it has none."""
    result: Result = importlib.import_module(f".{name}", __package__).measure(quick, tell, **options)
    return result
