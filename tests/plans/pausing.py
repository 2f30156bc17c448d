"""Somebody pauses or ends a plan in the middle: asked for on the RunEngine's loop, as queueserver's worker asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from bluesky.utils import TransitionError

Ask = Literal["pause", "stop", "abort", "halt"]


@contextmanager
def pausing_at(run_engine: Any, *positions: int, ask: Ask = "pause") -> Iterator[list[str]]:
    """Ask with the plan's messages of these numbers (0, 1 …; what is repeated after a pause doesn't count); gives the commands
    seen, repeated ones too.
    """
    seen: list[str] = []
    messages: dict[int, Any] = {}

    async def asking() -> None:
        coroutines = {
            "pause": lambda: run_engine._request_pause_coro(),
            "stop": lambda: run_engine._stop_coro(),
            "abort": lambda: run_engine._abort_coro(""),
            "halt": lambda: run_engine._halt_coro(),
        }
        with contextlib.suppress(TransitionError):  # the plan has ended meanwhile
            await coroutines[ask]()

    def hook(msg: Any) -> None:
        seen.append(msg.command)
        if id(msg) not in messages:
            messages[id(msg)] = msg
            if len(messages) - 1 in positions:
                asyncio.run_coroutine_threadsafe(asking(), run_engine.loop)

    run_engine.msg_hook = hook
    try:
        yield seen
    finally:
        run_engine.msg_hook = None
