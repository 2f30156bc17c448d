"""Fits of what was measured: a peak of sharpness, a line, a linear map. Numbers in, numbers out; what proves nothing raises."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNKNOWNS = 4
"""Of a `Peak`."""
LEAST_POINTS = UNKNOWNS + 1
LEAST_STRUCTURE = 0.15
"""Correlation of neighbouring pixels in the sharpest frame below which there is nothing to focus on: noise stays under 0.05."""
LEAST_RISE = 0.02
"""A curve that rises by a smaller share of its mean is flat."""


class FitError(ValueError):
    """What was measured has no answer in it: an empty field, a flat curve, a peak at the edge, a bad fit.

    ``str`` names the thing, the value, the limit and the remedy; ``fields`` has ``thing, value, limit``.
    """

    def __init__(self, message: str, thing: str, value: Any, limit: Any) -> None:
        super().__init__(message)
        self.fields = {"thing": thing, "value": value, "limit": limit}


@dataclass(frozen=True)
class Peak:
    """A Gaussian on a constant: ``base + height × exp(−(x − centre)² / 2 width²)``."""

    centre: float
    width: float
    height: float
    base: float
    r2: float
    """Adjusted for its unknowns: through five points that mean nothing a peak often goes with 0.9 as R² is usually counted."""


@dataclass(frozen=True)
class Line:
    """``y = slope × x + offset``."""

    slope: float
    offset: float
    r2: float


def check_structure(structure: float, camera: str) -> None:
    """
    Raises
    ------
    FitError
        Where the field that gave this is empty.
    """
    if not structure >= LEAST_STRUCTURE:  # NaN included
        raise FitError(
            f"{camera} sees an empty field: structure {structure:.3f} in the sharpest frame, at least {LEAST_STRUCTURE} is"
            " needed (noise alone has none): bring the sample into view and near the focus, or give more light",
            "structure",
            _finite_or_text(structure),
            LEAST_STRUCTURE,
        )


def fit_peak(positions: Sequence[float], values: Sequence[float], name: str, units: str) -> Peak:
    """Fit the peak of a focus curve by least squares (`scipy.optimize.curve_fit`).

    Parameters
    ----------
    positions
        Of the axis, ascending or descending.
    name, units
        Of the axis, for what is said of it.

    Raises
    ------
    FitError
        For too few points, one that isn't finite, a flat curve, a peak at or beyond the ends, or where no peak fits. R² is
        the caller's to judge.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    x, y = _finite(positions, values, LEAST_POINTS, name)
    low, high = float(x.min()), float(x.max())
    rise = float(np.ptp(y)) / max(abs(float(y.mean())), 1e-12)
    if rise < LEAST_RISE:
        raise FitError(
            f"the focus curve is flat: sharpness changes by {100 * rise:.2g} % over {name} [{low:g}, {high:g}] {units}, at"
            f" least {100 * LEAST_RISE:g} % are needed: a wider range, or another metric",
            "rise",
            rise,
            LEAST_RISE,
        )
    top = int(np.argmax(y))
    step = (high - low) / (len(x) - 1)
    scale = float(np.ptp(y))
    start = (x[top], max(step, (high - low) / 6), scale, float(y.min()))
    bounds = (
        (low - (high - low), step / 4, 0.0, y.min() - 3 * scale),
        (high + (high - low), 2 * (high - low), 10 * scale, y.max()),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # a perfect fit has no covariance
            (centre, width, height, base), _ = curve_fit(_gaussian, x, y, p0=start, bounds=bounds, maxfev=5000)
    except (RuntimeError, ValueError) as error:
        raise FitError(
            f"no peak fits the focus curve over {name} [{low:g}, {high:g}] {units} ({error}): a wider range or smaller steps",
            "fit",
            None,
            None,
        ) from None
    missed = 1 - r_squared(y, _gaussian(x, centre, width, height, base))
    r2 = 1 - missed * (len(x) - 1) / (len(x) - UNKNOWNS)
    peak = Peak(float(centre), float(width), float(height), float(base), r2)
    if top in (0, len(x) - 1) or not low + step / 2 <= peak.centre <= high - step / 2:
        where = low if abs(x[top] - low) < abs(x[top] - high) else high
        raise FitError(
            f"the focus curve has its peak at the edge: {name} {peak.centre:.4g} {units} of [{low:g}, {high:g}] {units}: move"
            f" towards {where:g} {units}, or widen the range",
            name,
            peak.centre,
            [low, high],
        )
    return peak


def fit_line(x: Sequence[float], y: Sequence[float], name: str) -> Line:
    """A straight line by least squares.

    Raises
    ------
    FitError
        For fewer than two different ``x``, or a value that isn't finite.
    """
    first, second = _finite(x, y, 2, name)
    if float(np.ptp(first)) < 1e-12:
        raise FitError(f"{name}: all points are at {first[0]:g}: no line", name, float(first[0]), None)
    slope, offset = np.polyfit(first, second, 1)
    return Line(float(slope), float(offset), r_squared(second, slope * first + offset))


def fit_map(moves: Sequence[Sequence[float]], shifts: Sequence[Sequence[float]]) -> tuple[np.ndarray, float]:
    """The matrix M (2 × 2) with ``shift = M @ move``, by least squares, and its R².

    Raises
    ------
    FitError
        Where a value isn't finite, or the image hardly moved, or the same way for x and y.
    """
    asked, seen = np.asarray(moves, float), np.asarray(shifts, float)
    if not (np.isfinite(asked).all() and np.isfinite(seen).all()):
        raise FitError("a shift is not a finite number: nothing can be fitted", "shift", None, None)
    found, *_ = np.linalg.lstsq(asked, seen, rcond=None)
    matrix = found.T
    sizes = np.linalg.svd(matrix, compute_uv=False)
    if sizes[-1] <= 0.1 * sizes[0] or sizes[0] == 0:
        raise FitError(
            f"the image moved by {sizes[0]:.3g} px/µm one way and {sizes[-1]:.3g} the other, they must be alike within a factor"
            " of 10: a larger step, or a field with more structure",
            "shift",
            float(sizes[-1]),
            float(0.1 * sizes[0]),
        )
    return matrix, r_squared(seen, asked @ found)


def check_r2(r2: float, least: float, what: str) -> None:
    """
    Raises
    ------
    FitError
        Where a fit is worse than asked for.
    """
    if not r2 >= least:
        raise FitError(
            f"{what} fits with R² {r2:.3f}, at least {least:g} is asked for (min_r2): smaller steps, more light or a longer"
            " exposure, another range, or a lower min_r2",
            "r2",
            _finite_or_text(r2),
            least,
        )


def r_squared(values: np.ndarray, fitted: np.ndarray) -> float:
    """Coefficient of determination; 0 for values that don't vary."""
    spread = float(np.sum((values - values.mean(axis=0)) ** 2))
    return 1 - float(np.sum((values - fitted) ** 2)) / spread if spread > 0 else 0.0


def _gaussian(x: Any, centre: float, width: float, height: float, base: float) -> Any:
    return base + height * np.exp(-((x - centre) ** 2) / (2 * width**2))


def _finite(x: Sequence[float], y: Sequence[float], least: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(x, float), np.asarray(y, float)
    if len(first) < least:
        raise FitError(f"{name}: {len(first)} points, at least {least} are needed", "points", len(first), least)
    bad = ~(np.isfinite(first) & np.isfinite(second))
    if bad.any():
        at = int(np.argmax(bad))
        raise FitError(
            f"{name}: point {at} is not a finite number ({first[at]}, {second[at]}): nothing is fitted to the rest; look at"
            " that frame",
            name,
            str(second[at]),
            None,
        )
    return first, second


def _finite_or_text(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
