"""Yahoo's prices are single-precision numbers written as doubles; this finds the decimals that were meant. Pure.

Exact from 1e-13 to 1e9.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["as_meant", "hundredths"]

Floats = npt.NDArray[np.float64]


def as_meant(values: Floats) -> Floats:
    """The shortest decimals that are the same single-precision numbers: 75.0875015258789 becomes 75.0875.

    What is no single-precision number stays as it is, and so do 0, NaN and infinities.
    """
    meant = values.copy()
    with np.errstate(over="ignore", under="ignore"):
        left = np.flatnonzero((values.astype(np.float32) == values) & (values != 0) & np.isfinite(values))
        for digits in (7, 8, 9):  # nine always do
            if not left.size:
                break
            exact = values[left]
            rounded = _rounded(exact, digits)
            same = rounded.astype(np.float32) == exact
            meant[left[same]] = rounded[same]
            left = left[~same]
    return meant


def hundredths(values: Floats) -> Floats:
    """A hundredth of decimals of up to nine digits: 72.4 pence are 0.724 pounds, not 0.7240000000000001."""
    found = values / 100.0
    at = np.flatnonzero((values != 0) & np.isfinite(values))
    found[at] = _rounded(found[at], 12)
    return found


def _rounded(values: Floats, digits: int) -> Floats:
    """To so many significant digits."""
    places = digits - 1 - np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.abs(places)
    rounded: Floats = np.where(places >= 0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
    return rounded
