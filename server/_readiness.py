"""Whether a plan submitted now would run, by asking every part it needs.

All parts are asked at once, each with a deadline, so that the answer comes within a second whatever hangs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx

from ..hardware import HardwareError, LatchFile
from ._context import Context
from ._holds import holds
from ._models import Component, Components, QueueComponent, Readiness
from ._queue import QueueUnreachable, ask

DEADLINE_S = 0.8

_RUNS_PLANS = {"idle", "starting_queue", "executing_queue", "executing_task"}
"""States of the queue server in which a queued plan gets its turn without anybody's help."""
_CHANGES = {
    "creating_environment": "is opening",
    "closing_environment": "is closing",
    "destroying_environment": "is being destroyed",
}


async def readiness(context: Context) -> Readiness:
    """The state of every part, and what stands in a plan's way."""
    valkey, status, hardware, catalog = await asyncio.gather(
        _within(_valkey(context)),
        _queue_status(context),
        _within(_hardware(context)),
        _within(_catalog(context)),
    )
    manager, environment, queue = _queue_server(status, context)
    if context.scope.micromanager.process == "worker" and hardware.ok is None:
        hardware = Component(ok=environment.ok, detail="inside the RE worker")
    components = Components(
        valkey=valkey,
        manager=manager,
        environment=environment,
        queue=queue,
        hardware=hardware,
        http=Component(ok=True, detail="answers"),
        catalog=catalog,
    )
    waits = await holds(context, status if isinstance(status, dict) else {}, hardware)
    needed = ("valkey", "manager", "environment", "queue", "hardware")
    reasons = [f"{name}: {part.detail}" for name in needed if not (part := getattr(components, name)).ok]
    return Readiness(ready=not reasons, reasons=reasons, components=components, holds=waits)


async def _within(answer: Awaitable[Component]) -> Component:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await answer
    except TimeoutError:
        return Component(ok=False, detail=f"no answer within {DEADLINE_S} s")


async def _valkey(context: Context) -> Component:
    """AUTH and PING, in Valkey's own protocol."""
    service = context.scope.services.valkey
    try:
        if service == "embedded":
            reader, writer = await asyncio.open_unix_connection(context.layout.valkey_socket)
        else:
            host, _, port = service.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
    except ValueError:
        return Component(ok=False, detail=f"services.valkey {service!r} is neither `embedded` nor host:port")
    except OSError as error:
        return Component(ok=False, detail=f"can't be reached: {error}")
    try:
        writer.write(f"AUTH {context.layout.key('valkey')}\r\nPING\r\n".encode())
        replies = [(await reader.readline()).decode(errors="replace").strip() for _ in range(2)]
    except OSError as error:
        return Component(ok=False, detail=f"broke the connection: {error}")
    finally:
        writer.close()
    if replies[-1] == "+PONG":
        return Component(ok=True, detail="answers")
    return Component(ok=False, detail=f"refuses: {replies[-1] or 'connection closed'}")


async def _queue_status(context: Context) -> dict[str, Any] | str:
    path = context.control.removeprefix("ipc://")
    if path != context.control:
        try:  # 0MQ itself would wait for somebody to listen
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
        except OSError:
            return f"nobody listens at {context.control}: start python -m queuescope.startup"
    try:
        return await ask(context.control, "status", deadline_s=DEADLINE_S)
    except QueueUnreachable as error:
        return str(error)


def _queue_server(status: dict[str, Any] | str, context: Context) -> tuple[Component, Component, QueueComponent]:
    if isinstance(status, str):
        unknown = "unknown, since the queue server does not answer"
        return (
            Component(ok=False, detail=status),
            Component(ok=False, detail=unknown),
            QueueComponent(ok=False, detail=unknown),
        )
    return _manager(status), _environment(status, context), _queue(status)


def _manager(status: dict[str, Any]) -> Component:
    state = str(status.get("manager_state"))
    if state == "paused":
        return Component(ok=False, detail="a plan is paused: resume, stop or abort it")
    if status.get("pause_pending"):
        return Component(ok=False, detail="a plan is about to pause")
    return Component(ok=state in _RUNS_PLANS, detail=state)


def _environment(status: dict[str, Any], context: Context) -> Component:
    if changing := _CHANGES.get(str(status.get("manager_state"))):
        return Component(ok=False, detail=f"the RE worker's environment {changing}")
    if silent := status.get("worker_silent"):
        return Component(ok=False, detail=str(silent))
    if lost := status.get("worker_lost"):
        return Component(ok=False, detail=f"{lost['why']}: its environment is being opened again")
    if not status.get("worker_environment_exists"):
        return Component(ok=False, detail="the RE worker's environment is not open: open it")
    pids = (context.layout.runtime() or {}).get("pids") or {}  # without a supervisor nobody knows the worker's pid
    if "worker" in pids and pids["worker"] is None:
        return Component(ok=False, detail="the RE worker died: its environment is being opened again")
    if "worker" in pids and not _alive(pids["worker"]):  # the queue server itself never notices
        return Component(
            ok=False, detail=f"the RE worker (pid {pids['worker']}) died: destroy the environment and open it again"
        )
    return Component(ok=True, detail=str(status.get("worker_environment_state")))


def _queue(status: dict[str, Any]) -> QueueComponent:
    facts: dict[str, Any] = {
        "autostart": bool(status.get("queue_autostart_enabled")),
        "items": status.get("items_in_queue"),
        "running": status.get("running_item_uid"),
    }
    if status.get("queue_stop_pending"):
        return QueueComponent(
            ok=False, detail="stops after the running plan: cancel the stop or start it again", **facts
        )
    if (status.get("lock") or {}).get("queue"):
        return QueueComponent(ok=False, detail="is locked: unlock it", **facts)
    if not facts["autostart"]:
        return QueueComponent(ok=False, detail="autostart is off: switch it on", **facts)
    return QueueComponent(ok=True, detail="autostart is on", **facts)


async def _hardware(context: Context) -> Component:
    latch = LatchFile.halt(context.layout).read()
    if latch is not None:
        return Component(ok=False, detail=f"halted by {latch.by}: {latch.reason}: an operator must rearm")
    if context.scope.micromanager.process == "worker":
        released = LatchFile.released(context.layout).read()
        if released is not None:
            return Component(ok=False, detail=f"released by {released.by} ({released.reason}): queuescope reclaim")
        return Component(ok=None, detail="inside the RE worker")
    try:
        info = await context.hardware_info.ask(DEADLINE_S)
    except HardwareError as error:
        return Component(ok=False, detail=str(error))
    if info.stage == "released":
        return Component(ok=False, detail=str(info.waits))
    if info.stage != "ready":
        todo = f"an operator must rearm: {info.waits}" if info.waits else "loading its configuration"
        return Component(ok=False, detail=f"restarted with its lights off; {todo}")
    return Component(ok=True, detail=f"pid {info.pid}")


async def _catalog(context: Context) -> Component:
    tiled = context.tiled()
    if tiled is None:
        return Component(ok=None, detail="Tiled's address is not known yet")
    try:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=DEADLINE_S) as client:
            reply = await client.get(httpx.URL(tiled).join("/healthz"))
    except httpx.HTTPError as error:
        return Component(
            ok=False, detail=f"{tiled} does not answer ({type(error).__name__}): runs wait in the document log"
        )
    if reply.status_code != 200:
        return Component(ok=False, detail=f"{tiled} answers {reply.status_code}")
    if not await _courier_answers(context):
        return Component(ok=False, detail="the courier does not answer: runs wait in the document log")
    return Component(ok=True, detail=f"{tiled} answers {reply.status_code}")


async def _courier_answers(context: Context) -> bool:
    try:
        async with asyncio.timeout(DEADLINE_S / 2):
            reader, writer = await asyncio.open_unix_connection(context.layout.courier_socket)
            try:
                return bool(await reader.read(1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def _alive(pid: int) -> bool:
    """Whether a process runs; a zombie, dead and not yet buried by its parent, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
