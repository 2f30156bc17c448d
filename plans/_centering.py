"""`center_on_pixel`: bring what a frame shows somewhere into the middle of the field."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, create_model

from ..config import Scope
from ..formats import frame_list
from ..reading import RunLog, RunLogError, UnknownRunError
from ._focus_fit import FitError
from ._movement import device_of, move_stage_run, moved
from ._parameters import Parameters, number
from ._reading import value
from ._template import PlanBody, PlanContext, Template

STALE_UM = 2.0
"""The stage must stand so near to where the frame was taken: else nobody knows what lies there now."""


@dataclass(frozen=True)
class FrameTaken:
    """What is known of a frame of an earlier run."""

    camera: str
    objective: str | None
    binning: int
    shape: tuple[int, int]
    """Height and width in binned pixels."""
    position: dict[str, float]
    """Of every axis when it was taken."""


def frame_taken(context: PlanContext, run_uid: str, dataset: str, index: int) -> FrameTaken:
    """
    Raises
    ------
    FitError
        For a run, a dataset or a frame that isn't there.
    """
    try:
        log = RunLog.read(context.layout, run_uid)
    except (UnknownRunError, RunLogError) as error:
        raise FitError(
            f"run_uid: {error}: give the UID of a run of this microscope", "run_uid", run_uid, None
        ) from None
    start, datasets = log.start or {}, log.datasets
    if start.get("scope") != context.scope.name:
        raise FitError(
            f"run_uid: run {run_uid} is of the scope {start.get('scope')!r}, not of {context.scope.name!r}",
            "run_uid",
            run_uid,
            context.scope.name,
        )
    if dataset not in datasets:
        raise FitError(
            f"dataset: run {run_uid} has no dataset {dataset!r}, it has {sorted(datasets)}",
            "dataset",
            dataset,
            sorted(datasets),
        )
    found = datasets[dataset]
    path = found.path(context.layout, context.scope, "tiled")
    lines = [] if path is None or not frame_list(path).exists() else frame_list(path).read_text("utf-8").splitlines()
    line = next((one for one in map(json.loads, lines) if one["index"] == index), None)
    if line is None:
        raise FitError(
            f"index: {dataset} of run {run_uid} has {len(lines)} frames, there is no frame {index}",
            "index",
            index,
            len(lines),
        )
    settings = log.configuration.get(found.stream, {})
    objective = (start.get("objective") or {}).get("name")
    camera = next(
        (name for name in context.scope.of_kind("camera") if dataset == name or dataset.startswith(f"{name}_")), dataset
    )
    height, width = found.described["shape"][-2:]
    binning = int(settings.get(f"{dataset}_binning", 1))
    return FrameTaken(camera, objective, binning, (int(height), int(width)), dict(line["position"]))


def um_per_px(context: PlanContext, camera: str, objective: str | None) -> np.ndarray:
    """How far the stage goes for the image to move by an unbinned pixel: 2 × 2.

    Raises
    ------
    FitError
        Where nobody has calibrated it.
    """
    stored = context.positions.calibrations.get("stage_camera", f"{camera}/{objective or ''}")
    if stored is not None:
        return np.array(stored["um_per_px"]).reshape(2, 2)
    known = context.scope.objectives.get(objective) if objective else None
    if known is not None and known.affine is not None:
        return np.array(known.affine).reshape(2, 2)
    raise FitError(
        f"{camera} with {objective or 'this objective'} has no stage calibration: run calibrate_stage_camera with store: true, or"
        f" state objectives.{objective or '…'}.affine in scope.yml",
        "calibration",
        camera,
        None,
    )


def center_on_pixel(scope: Scope) -> Template | None:
    x, y, _ = scope.sample_axes()
    if x is None or y is None or not scope.of_kind("camera"):
        return None
    turret = next(iter(scope.of_kind("objective")), None)
    model = create_model(
        "center_on_pixel",
        __base__=Parameters,
        run_uid=(Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$", description="the run whose frame it is")], ...),
        dataset=(Annotated[str, Field(min_length=1, max_length=128, description="its dataset, such as cam_a")], ...),
        index=(Annotated[int, Field(ge=0, le=10**9, description="the frame")], ...),
        x_frac=(number(0, 1, "of the width", "where in the frame, from the left"), ...),
        y_frac=(number(0, 1, "of the height", "where in the frame, from the top"), ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Bring what a frame of an earlier run shows at a place into the middle of the field.

        Moves the XY stage and nothing else, by the stored calibration of that camera and objective; uses no light. Refused for a
        frame of another objective than the one in place, and where the stage no longer stands where the frame was taken (stale).
        Returns where the stage was, where it was sent and where it is.
        """
        stage = context.devices[x.partition(".")[0]]
        frame = frame_taken(context, parameters.run_uid, parameters.dataset, parameters.index)
        matrix = um_per_px(context, frame.camera, frame.objective)
        here = ((yield from value(stage.x)), (yield from value(stage.y)))
        if turret is not None and not context.dry:
            label = yield from value(context.devices[turret])
            _check_objective(scope, frame, label)
        _check_not_stale(frame, {x: here[0], y: here[1]})
        height, width = frame.shape
        shift = np.array([0.5 - parameters.x_frac, 0.5 - parameters.y_frac]) * (width, height) * frame.binning
        move = matrix @ shift
        target = (float(frame.position[x] + move[0]), float(frame.position[y] + move[1]))
        for component, where in zip((x, y), target, strict=True):
            device_of(context, component).check_value(where)
        return (yield from move_stage_run(stage, target, of_run=parameters.run_uid))

    camera = next(iter(scope.of_kind("camera")))
    example = {"run_uid": "5e8f6c1a-run-uid", "dataset": camera, "index": 0, "x_frac": 0.5, "y_frac": 0.5}
    return Template("center_on_pixel", model, body, lambda _, scope: moved(scope, x), example=example)


def _check_objective(scope: Scope, frame: FrameTaken, label: str) -> None:
    name = next((name for name, one in scope.objectives.items() if one.label == label), None)
    if name != frame.objective:
        raise FitError(
            f"run_uid: that frame was taken with {frame.objective}, {name or label} is in place: turn the other one in"
            " (set_objective), or take a new frame",
            "objective",
            name,
            frame.objective,
        )


def _check_not_stale(frame: FrameTaken, here: dict[str, float]) -> None:
    away = math.dist(list(here.values()), [frame.position[axis] for axis in here])
    if not away <= STALE_UM:
        was = ", ".join(f"{axis} {frame.position[axis]:g}" for axis in here)
        raise FitError(
            f"index: that frame is stale: the stage stands {away:.1f} um from where it was taken ({was}), at most {STALE_UM:g} um"
            " is allowed: go back there, or take a new frame",
            "position",
            away,
            STALE_UM,
        )
