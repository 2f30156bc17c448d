"""Fits that prove nothing are refused with the value, the limit and the remedy."""

import math

import numpy as np
import pytest

from queuescope.plans import FitError
from queuescope.plans._focus_fit import check_r2, check_structure, fit_line, fit_map, fit_peak

X = [float(x) for x in range(-10, 11)]


def gaussian(centre: float, width: float = 3.0) -> list[float]:
    return [5.0 + 40.0 * math.exp(-((x - centre) ** 2) / (2 * width**2)) for x in X]


@pytest.mark.parametrize("order", [1, -1])
def test_a_peak_is_found_between_the_points(order: int) -> None:
    peak = fit_peak(X[::order], gaussian(1.37)[::order], "z", "um")
    assert (peak.centre, peak.width) == pytest.approx((1.37, 3.0), abs=1e-3)
    assert peak.r2 == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([7.0] * 21, r"flat: sharpness changes by 0 % over z \[-10, 10\] um, at least 2 % are needed"),
        ([0.0] * 21, "flat"),
        (gaussian(10.0), r"peak at the edge: z .* move towards 10 um, or widen"),
        (gaussian(-14.0), r"move towards -10 um"),
        ([*gaussian(0.0)[:-1], math.nan], r"z: point 20 is not a finite number \(10.0, nan\)"),
        ([math.inf, *gaussian(0.0)[1:]], "point 0 is not a finite number"),
    ],
)
def test_a_curve_without_an_answer_is_refused(values: list[float], words: str) -> None:
    with pytest.raises(FitError, match=words) as caught:
        fit_peak(X, values, "z", "um")
    assert set(caught.value.fields) == {"thing", "value", "limit"}


def test_noise_has_no_r2() -> None:
    """Random values: refused as they are, or by their R²."""
    refused = 0
    for seed in range(50):
        values = np.random.default_rng(seed).normal(100, 10, len(X))
        try:
            check_r2(fit_peak(X, list(values), "z", "um").r2, 0.8, "the focus curve")
        except FitError:
            refused += 1
    assert refused == 50


def test_few_points_are_fitted_by_anything_and_count_for_less() -> None:
    """Sharpness of five frames that have no focus: four unknowns come within R² 0.9 of it."""
    found = fit_peak(X[:5], [3903.0, 3854.0, 4042.0, 3973.0, 3916.0], "galvo_a_y", "deg")
    with pytest.raises(FitError, match=r"R² 0\.\d+, at least 0\.8"):
        check_r2(found.r2, 0.8, "the focus curve over galvo_a_y")
    right = [5.0 + 40.0 * math.exp(-((x - X[2]) ** 2) / 4) for x in X[:5]]
    assert fit_peak(X[:5], right, "z", "um").r2 == pytest.approx(1.0)


def test_what_is_too_little_is_refused() -> None:
    with pytest.raises(FitError, match="4 points, at least 5"):
        fit_peak(X[:4], X[:4], "z", "um")
    with pytest.raises(FitError, match="all points are at 1"):
        fit_line([1.0, 1.0], [1.0, 2.0], "galvo_a_y")
    with pytest.raises(FitError, match=r"at least 0\.8 is asked for"):
        check_r2(math.nan, 0.8, "it")
    with pytest.raises(FitError, match="empty field"):
        check_structure(math.nan, "cam_a")


def test_an_image_that_moves_one_way_only_is_refused() -> None:
    moves = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
    with pytest.raises(FitError, match="a larger step"):
        fit_map(moves, [(1.0, 1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, -1.0)])
    with pytest.raises(FitError, match="a larger step"):
        fit_map(moves, [(0.0, 0.0)] * 4)
    with pytest.raises(FitError, match="finite"):
        fit_map(moves, [(math.nan, 0.0)] * 4)
    matrix, r2 = fit_map(moves, [(2.0, 1.0), (-2.0, -1.0), (-1.0, 2.0), (1.0, -2.0)])
    assert matrix == pytest.approx(np.array([[2.0, -1.0], [1.0, 2.0]]))
    assert r2 == pytest.approx(1.0)
