"""What a plan would do, asked of the checker (`queuescope.startup`): nothing is queued, nothing moves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ..hardware import DoseState
from ._by_hand import by_hand
from ._context import Context
from ._microscope import read_hardware
from ._op_models import Check, Submit
from ._problems import Problem

LONGEST_S = 35.0
"""The checker ends what takes longer than 30."""


async def check(context: Context, asked: Submit, role: str) -> Check:
    """Go through a plan from where the microscope is now.

    Raises
    ------
    Problem
        ``unknown_plan``; ``hardware_unreachable`` where nobody says where the axes are; ``checker_unreachable``.
    """
    state, dose = await asyncio.gather(read_hardware(context), by_hand(context, DoseState, "dose"))
    problems: list[dict[str, Any]] = []
    if asked.sample_id is not None and dose.sample_id not in (None, asked.sample_id):
        msg = (
            f"the plan names sample {asked.sample_id!r}, but {dose.sample_id!r} is open: all light counts for that one"
        )
        problems.append({"loc": ["sample_id"], "msg": msg, "value": asked.sample_id, "limit": dose.sample_id})
    elif asked.sample_id is not None and dose.sample_id is None:
        dose = await by_hand(context, DoseState, "dose", sample_id=asked.sample_id)
    question = {
        "plan": asked.plan,
        "kwargs": asked.kwargs,
        "role": role,
        "state": state.model_dump(mode="json"),
        "dose": dose.model_dump(mode="json"),
    }
    found = await _answer(context, question)
    if "code" in found:
        raise Problem(found["code"], found["detail"])
    problems += [{**problem, "loc": _loc(problem["loc"])} for problem in found.pop("problems")]
    return Check.model_validate({**found, "ok": not problems, "problems": problems})


def _loc(loc: str) -> list[str | int]:
    """Where it stands in the request, as in ``errors`` of a refused submission."""
    return ["kwargs", *(int(part) if part.isdigit() else part for part in loc.split("."))]


async def _answer(context: Context, question: dict[str, Any]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(LONGEST_S):
            reader, writer = await asyncio.open_unix_connection(context.layout.check_socket, limit=1 << 24)
            try:
                writer.write(json.dumps(question).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise Problem("checker_unreachable", f"the checker does not answer: {error or 'timeout'}") from None
    if not line:
        raise Problem("checker_unreachable", "the checker ended without an answer: the plan is too long to go through")
    found: dict[str, Any] = json.loads(line)
    return found
