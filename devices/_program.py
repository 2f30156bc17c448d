"""A volume, a stack or a burst as one flyer: the hardware process takes the frames, the RunEngine only follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._following import ProgramFollower


class ProgramFlyer(ProgramFollower):
    """Stream documents name only frames on disk, one for all that are new since the last collection; there are no events.
    `another` is a flyer for datasets of its own in the same run.
    """

    def another(self, series: str, position: str | None = None) -> ProgramFlyer:
        """A flyer like this one; its light counts for this ``position``."""
        return ProgramFlyer(
            name=f"{self.name}_{series}",
            hardware=self._hardware,
            recordings=self._recordings,
            labels=self._labels,
            imaging=self._imaging,
            position=position,
        )

    def get_index(self) -> int:
        """Frames on disk in every dataset."""
        return self._on_disk()

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        frames = self._on_disk() if index is None else min(index, self._on_disk())
        for stream in self._streams.values():
            yield from stream.documents(frames)
