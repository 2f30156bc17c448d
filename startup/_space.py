"""Whether what a plan will record fits on the disk: before it is queued, before it starts, and between its rounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from bluesky import Msg

from ..config import Scope
from ..layout import Layout
from ..ledger import Hold, Room, Waits, room_for
from ..plans import ParameterError, Template
from ._frame_sizes import FrameSizes


class Space:
    """Estimates held against free space. Each plan by itself: what is queued behind it waits for its own turn (`Gate`)."""

    def __init__(self, scope: Scope, layout: Layout, templates: Mapping[str, Template]) -> None:
        self._scope, self._layout, self._templates = scope, layout, templates
        self._sizes = FrameSizes(scope, layout)

    def room(self, name: str, kwargs: Mapping[str, Any]) -> Room | None:
        """Room for the frames that a plan will record; None where it records none, isn't one of ours, or the disk isn't seen."""
        template = self._templates.get(name)
        if template is None:
            return None
        try:
            frames = template.estimate(template.check(kwargs), self._scope).frames
        except ParameterError:  # the plan's own check says so, better
            return None
        return self.room_for(frames) if any(frames.values()) else None

    def room_for(self, frames: Mapping[str, int]) -> Room | None:
        """Room for frames, by dataset."""
        return room_for(self._scope, self._layout, self._sizes.bytes_of(frames))


AMPLE = 1000
LOOK_S = 1.0
"""A disk that has room for so many rounds isn't looked at again for so long."""


class RoundsWait:
    """The RunEngine's side of `queuescope.plans.wait_for_space`: looks at the disk, and tells what waits."""

    def __init__(self, space: Space, waits: Waits) -> None:
        self._space, self._waits = space, waits
        self.item_uid: str | None = None
        """The queue item that runs."""
        self._ample: tuple[Mapping[str, int], float] = {}, 0.0
        """For these frames there was ample room; until when that is taken for granted (monotonic)."""

    async def look(self, msg: Msg) -> Hold | None:
        """``Msg("disk_hold", None, frames)``: why the next round's frames (by dataset) must wait; None where they fit."""
        (frames,) = msg.args
        now = time.monotonic()
        if self._ample[0] == frames and now < self._ample[1]:
            return None
        # In a thread: a network disk that hangs must not keep a pause or an abort waiting.
        room = await asyncio.get_running_loop().run_in_executor(None, self._space.room_for, frames)
        if room is None or room.fits:
            if room is not None and 0 < AMPLE * room.needed + room.reserve <= room.free:
                self._ample = frames, now + LOOK_S
            return None
        item_uid = self.item_uid or "by-hand"
        return self._waits.tell(item_uid, "the next round", room)

    async def over(self, msg: Msg) -> None:
        """``Msg("disk_hold_over")``: it waits no more, whatever way it ended."""
        self._waits.clear(self.item_uid or "by-hand")
