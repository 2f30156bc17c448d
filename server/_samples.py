"""Samples: what people say of them in the ledger, their dose and whether they are open in the hardware (R5.6)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from pydantic import ConfigDict, Field, FiniteFloat

from ..described import Described
from ..hardware import DoseState
from ..ledger import Ledger, SampleRecord, Samples
from ._by_hand import by_hand
from ._context import Context
from ._problems import Problem

Text = Annotated[str, Field(max_length=500)]


class SampleFacts(Described):
    """What a person says of a sample; null: not said."""

    model_config = ConfigDict(extra="forbid")

    strain: Text | None = None
    stain: Text | None = None
    mount: Text | None = None
    medium: Text | None = None
    refractive_index: Annotated[FiniteFloat, Field(ge=1, le=2.5)] | None = None


class OpenSample(SampleFacts):
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
    dose_budget: dict[str, Annotated[FiniteFloat, Field(ge=0)]] = Field(default_factory=dict)
    """By light, in % × s, over the sample's life; a light that isn't named has none."""
    open: bool = True
    """False closes it."""


class Sample(SampleFacts):
    """A sample: facts, dose and budget."""

    id: str
    open: bool
    """All light counts for it now."""
    opened_by: str
    opened_at: float
    closed_at: float | None
    dose: dict[str, float]
    """By light, in % × s, as measured over its whole life."""
    dose_by_position: dict[str, dict[str, float]]
    dose_assumed: dict[str, float]
    """The part of it that counts although nobody saw the gate close."""
    dose_budget: dict[str, float]


async def put_sample(context: Context, asked: OpenSample, by: str) -> Sample:
    """Open or close a sample.

    Raises
    ------
    Problem
        ``unknown_sample`` where one is closed that isn't open.
    """
    samples = _samples(context.layout.ledger_db)
    if not asked.open:
        now = await by_hand(context, DoseState, "dose")
        if now.sample_id != asked.id:
            raise Problem("unknown_sample", f"sample {asked.id!r} is not open; open is {now.sample_id!r}")
        await by_hand(context, DoseState, "set_sample", sample_id=None, budget={})
        await to_thread.run_sync(samples.closed, asked.id, by)
        return await read_sample(context, asked.id)
    before = await by_hand(context, DoseState, "dose")
    await by_hand(context, DoseState, "set_sample", sample_id=asked.id, budget=asked.dose_budget)
    facts = {name: value for name in SampleFacts.model_fields if (value := getattr(asked, name)) is not None}
    if before.sample_id is not None and before.sample_id != asked.id:
        await to_thread.run_sync(samples.closed, before.sample_id, by)
    await to_thread.run_sync(samples.opened, asked.id, facts, by)
    return await read_sample(context, asked.id)


async def read_sample(context: Context, sample_id: str) -> Sample:
    """A sample by its id; `Problem` ``unknown_sample`` where nobody ever opened it."""
    record: SampleRecord | None = await to_thread.run_sync(_samples(context.layout.ledger_db).get, sample_id)
    dose = await by_hand(context, DoseState, "dose", sample_id=sample_id)
    if record is None and not (dose.open or dose.used):
        raise Problem("unknown_sample", f"nobody has opened a sample {sample_id!r}")
    facts: dict[str, Any] = record.facts if record is not None else {}
    return Sample(
        **facts,
        id=sample_id,
        open=dose.open,
        opened_by=record.opened_by if record is not None else "unknown",
        opened_at=record.opened_at if record is not None else 0.0,
        closed_at=None if dose.open or record is None else record.closed_at,
        dose=dose.used,
        dose_by_position=dose.by_position,
        dose_assumed=dose.assumed,
        dose_budget=dose.budget,
    )


@cache
def _samples(path: Path) -> Samples:
    return Samples(Ledger(path))
