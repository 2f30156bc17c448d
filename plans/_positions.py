"""Places with a name: those of the scope file, and those that people marked since."""

from __future__ import annotations

import json
import time
from typing import Any

from ..config import Position, Scope
from ..layout import Layout
from ._calibrations import Calibrations, keep


class Positions:
    """Looked up each time, so that a place that was marked a moment ago is known in every process, without a restart.

    Those that people marked lie in ``positions.json`` in the data directory: ``{name: {x_um, y_um, z_um, run_uid, at}}``. The
    scope file is a person's own text: nothing of ours writes into it.
    """

    def __init__(self, scope: Scope, layout: Layout) -> None:
        self._scope, self._file = scope, layout.positions
        self._calibrations = Calibrations(layout)

    @property
    def calibrations(self) -> Calibrations:
        """What lies beside them: what calibrations found."""
        return self._calibrations

    def names(self) -> list[str]:
        return sorted({*self._scope.positions, *self._marked()})

    def __getitem__(self, name: str) -> Position:
        """The place of this name; one in the scope file counts before one that was marked.

        Raises
        ------
        KeyError
            Where there is none; a plan's parameters were checked before.
        """
        if name in self._scope.positions:
            return self._scope.positions[name]
        marked = self._marked()[name]
        return Position(x_um=marked["x_um"], y_um=marked["y_um"], z_um=marked["z_um"])

    def mark(self, name: str, place: Position, run_uid: str) -> Position | None:
        """From now on the name means this place; returns what a person had marked by it before."""
        marked = self._marked()
        before = marked.get(name)
        marked[name] = {**place.model_dump(), "run_uid": run_uid, "at": time.time()}
        keep(self._file, marked)
        return None if before is None else Position(**{key: before[key] for key in ("x_um", "y_um", "z_um")})

    def _marked(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{self._file} can't be read: {error}: mend it, or remove it and mark again") from None
        return dict(found)
