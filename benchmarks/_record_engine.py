"""What a burst costs the RunEngine: ``python -m queuescope.benchmarks._record_engine '{…}'`` prints one JSON line.

CPU time of the RunEngine's own thread, from before the plan is called until it has returned: every message and document, the
document log included. In a worker's session with MMCore in this process (`process: worker`): what the RunEngine does is the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any, cast

from ..hardware import ConnectedHardware, FrameSettings
from ..layout import DATA_ENV, SCOPE_ENV
from ..startup._session import Session, open_session


def main(asked: dict[str, Any]) -> dict[str, float]:
    """
    Parameters
    ----------
    asked
        ``scope`` (folder), ``data``, ``frames``, ``exposure_ms``.

    Returns
    -------
    dict
        ``engine_cpu_ms_per_frame``
    """
    os.environ |= {
        SCOPE_ENV: asked["scope"],
        DATA_ENV: asked["data"],
        "QUEUESCOPE_MICROMANAGER__PROCESS": "worker",
    }
    session = open_session()
    hardware = cast(ConnectedHardware, session.hardware)
    try:
        hardware.snap("one", FrameSettings())
        hardware.set_value("fast1", "1")
        kwargs = {"frames": 10, "channels": [{"name": "bright", "exposure_ms": float(asked["exposure_ms"])}]}
        session.run_engine(session.plans["burst"](**kwargs))  # what only the first run costs
        before = _engine_s(session)
        done: Any = session.run_engine(session.plans["burst"](**kwargs | {"frames": asked["frames"]}))
        spent_s = _engine_s(session) - before
        return {"engine_cpu_ms_per_frame": 1000 * spent_s / sum(done.plan_result["datasets"].values())}
    finally:
        hardware.close()


def _engine_s(session: Session) -> float:
    """CPU time that the thread of the RunEngine's loop has had."""

    async def spent() -> float:
        return time.thread_time()

    return asyncio.run_coroutine_threadsafe(spent(), session.run_engine.loop).result(10)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
