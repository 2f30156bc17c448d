"""How many operations a role may submit: a bucket that fills steadily."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ._problems import Problem

PER_SECOND = 100.0
BURST = 400.0
"""Operations at once, after a while of silence."""


class Rate:
    """One bucket for each role."""

    def __init__(
        self, per_second: float = PER_SECOND, burst: float = BURST, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._now = per_second, burst, now
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, role: str) -> None:
        """One more, now.

        Raises
        ------
        Problem
            ``rate_limited``, with ``Retry-After``.
        """
        now = self._now()
        left, since = self._left.get(role, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        if left < 1:
            wait_s = math.ceil((1 - left) / self._per_second)
            raise Problem(
                "rate_limited",
                f"more than {self._per_second:g} operations a second from {role}: the same request again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        self._left[role] = (left - 1, now)
