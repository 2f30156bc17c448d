"""Numbers from frames, computed where the frames are: how sharp one is, how much structure it has, how far it lies from another.

The functions are SciPy's and scikit-image's; both are imported with the first measurement, not with the process.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._errors import ArgumentError

BACKGROUND_PX = 31
"""Structure is what is finer than this: a vignette or a gradient of the light is none."""
LEAST_PX = 8
"""Smallest side of a frame that can be measured."""


def sharpness(frame: np.ndarray, metric: str) -> float:
    """How sharp a frame is by a metric of `METRICS`; larger is sharper, with no unit.

    Parameters
    ----------
    frame
        Shape (height, width).
    """
    _check(frame)
    return float(METRICS[metric](frame.astype(np.float32)))


def structure(frame: np.ndarray) -> float:
    """How alike neighbouring pixels are, 0 (noise, or nothing) to 1 (smooth structure): correlation of the frame with itself one
    pixel further, in both directions, background removed. It depends on no gain, offset or exposure.
    """
    from scipy.ndimage import uniform_filter

    _check(frame)
    pixels = frame.astype(np.float32)
    pixels -= uniform_filter(pixels, min(BACKGROUND_PX, *(side // 2 for side in frame.shape)))
    variance = float(np.mean(pixels**2))
    if variance < 1e-6:
        return 0.0
    along = (float(np.mean(pixels[1:] * pixels[:-1])) + float(np.mean(pixels[:, 1:] * pixels[:, :-1]))) / 2
    return min(1.0, max(0.0, along / variance))


def shift(frame: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """How far the structure of a frame lies from where the reference has it.

    Returns
    -------
    tuple
        To the right and down in pixels, to 1/50 pixel, and how well they then agree (correlation, 0 to 1).

    Source: cross-correlation by FFT, refined as in Guizar-Sicairos et al., Opt. Lett. 33, 156 (2008)
    (`skimage.registration.phase_cross_correlation`). The normalised phase isn't used: noise would count as much as structure.
    """
    from skimage.filters import window
    from skimage.registration import phase_cross_correlation

    _check(frame)
    if frame.shape != reference.shape:
        raise ArgumentError(
            f"frames of {frame.shape} and {reference.shape} pixels can't be compared: take both with the same ROI and binning",
            thing="frame",
            value=list(frame.shape),
        )
    edges = window("hann", frame.shape)  # else the frame's own border correlates with itself, at no shift
    one, other = ((pixels.astype(np.float64) - pixels.mean()) * edges for pixels in (frame, reference))
    if not one.any() or not other.any():
        return 0.0, 0.0, 0.0
    moved, error, _ = phase_cross_correlation(one, other, upsample_factor=50, normalization=None)
    return float(moved[1]), float(moved[0]), float(np.sqrt(max(0.0, 1 - min(1.0, float(error)) ** 2)))


def _check(frame: np.ndarray) -> None:
    if min(frame.shape) < LEAST_PX:
        raise ArgumentError(
            f"a frame of {frame.shape} pixels is too small to be measured: at least {LEAST_PX} each way",
            thing="frame",
            value=list(frame.shape),
        )


def _tenengrad(pixels: np.ndarray) -> float:
    from scipy.ndimage import gaussian_gradient_magnitude

    return float(np.mean(gaussian_gradient_magnitude(pixels, 1.0) ** 2))


def _laplacian(pixels: np.ndarray) -> float:
    from scipy.ndimage import gaussian_laplace

    return float(np.var(gaussian_laplace(pixels, 1.0)))


def _variance(pixels: np.ndarray) -> float:
    """Over the mean: light that flickers or bleaches counts less."""
    mean = float(np.mean(pixels))
    return float(np.var(pixels)) / mean if mean > 0 else 0.0


def _dct_entropy(pixels: np.ndarray) -> float:
    """Shannon entropy of the normalised DCT below half of the band: Royer et al., Nat. Biotechnol. 34, 1267 (2016)."""
    from scipy.fft import dctn

    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    spectrum = np.abs(dctn(pixels, norm="ortho", workers=2)[:height, :width])
    rows, columns = np.ogrid[:height, :width]
    inside = spectrum[rows / height + columns / width < 1]
    norm = float(np.sqrt(np.sum(spectrum**2)))
    if norm == 0:
        return 0.0
    share = inside[inside > 0] / norm
    return float(-2 * np.sum(share * np.log2(share)) / (height * width))


METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "tenengrad": _tenengrad,
    "laplacian": _laplacian,
    "variance": _variance,
    "dct_entropy": _dct_entropy,
}
