"""What every way of timing frames has in common: what one run of a program can do, and the order of a volume's frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from ._cameras import Frame
from ._recording import Recording
from ._surface import BurstProgram, VolumeProgram, VolumeView

Program = VolumeProgram | BurstProgram
P = TypeVar("P", bound=Program)
P_co = TypeVar("P_co", bound=Program, covariant=True)
P_contra = TypeVar("P_contra", bound=Program, contravariant=True)


class Running(Protocol[P_co]):
    """A program that is being carried out, as its pace sees it."""

    recording: Recording
    ending: threading.Event
    """Somebody wants it to end at once."""

    @property
    def program(self) -> P_co: ...

    def goes_on(self) -> bool:
        """Whether the next exposure may begin; waits while it is held. False: it must end (see `ends_early`)."""
        ...

    def ends_early(self) -> bool:
        """Whether it must end before its last frame: it was stopped (which is noted), or its frames can't be written."""
        ...

    def note(self, problem: str) -> None:
        """Make the volume fail, with this reason after those before; what is under way goes on."""
        ...

    def noting(self, prefix: str = "") -> AbstractContextManager[None]:
        """What fails inside is noted; the next step is taken all the same."""
        ...

    def stay(self) -> None:
        """The axes are not to be moved back."""
        ...

    def record(self, dataset: str, frame: Frame, position: dict[str, float], programmed: bool = False) -> None:
        """Check a frame and hand it to the writer; ``programmed``: the position was commanded, not read back.

        Waits while the writer has as much as it may hold.
        """
        ...

    def has_room(self, timeout_s: float) -> bool:
        """Whether the writer can take a frame at once; waits so long for it."""
        ...


class Pace(Protocol[P_contra]):
    """Who times the frames: the hardware process, a camera, a controller."""

    def check(self, program: P_contra) -> None:
        """What this pace can't do, and limits that only it reaches, before anything moves. Raises a `HardwareError`."""
        ...

    def dose(self, program: P_contra) -> dict[str, float]:
        """By light: what the sample will get, in % × s."""
        ...

    def can_wait(self, program: P_contra) -> bool:
        """Whether it can wait before any exposure (`Running.goes_on`); what something else times can't."""
        ...

    def moves(self, program: P_contra) -> list[str]:
        """Axes that will not be where they were; afterwards they go back."""
        ...

    def run(self, run: Running[P_contra]) -> None:
        """Take the frames. However it ends, what this pace has set going is stopped and what it has changed is restored."""
        ...

    def halt_steps(self) -> Mapping[str, Callable[[], object]]:
        """What stops it from another thread without any lock, by name."""
        ...


def in_order(program: VolumeProgram) -> Iterator[tuple[VolumeView, int]]:
    """Each frame of the program: its view and slice, in the order in which they are taken."""
    if program.order == "slice":
        for index in range(len(program.views[0].piezo_um)):
            for view in program.views:
                yield view, index
    else:
        for view in program.views:
            for index in range(len(view.piezo_um)):
                yield view, index


def axes_of(program: VolumeProgram) -> list[str]:
    """The axes that a program names."""
    return list(dict.fromkeys(n for view in program.views for n in (view.piezo, view.galvo) if n is not None))


def targets_of(view: VolumeView, index: int) -> dict[str, float]:
    """Where the axes of a view are at a slice."""
    targets = {view.piezo: view.piezo_um[index]}
    if view.galvo is not None and view.galvo_deg is not None:
        targets[view.galvo] = view.galvo_deg[index]
    return targets
