"""What this process knows of a dataset's image: the scope file's facts, the camera as it reads now, and the plan's words."""

from __future__ import annotations

import time

from ..config import Scope
from ..formats import CameraFacts, ImageFacts, LightFacts, ObjectiveFacts
from ._cameras import Cameras
from ._surface import DatasetPlan, RecordingPlan


def image_facts(scope: Scope, cameras: Cameras, plan: RecordingPlan, dataset: DatasetPlan) -> ImageFacts:
    """The facts of a dataset that is about to be recorded. What nobody says is left out."""
    camera = cameras.state(dataset.camera)
    channel = scope.channels.get(dataset.channel) if dataset.channel is not None else None
    about = {
        "scope": scope.name,
        "sample_id": plan.sample_id,
        "session_id": plan.session_id,
        "position": plan.position,
    }
    return ImageFacts(
        run_uid=plan.run_uid,
        name=dataset.name,
        frame_shape=(camera.height, camera.width),
        dtype=camera.dtype,
        axes=(dataset.axis,),
        sizes=(dataset.frames or 1,),
        pixel_um=camera.pixel_um,
        step_um=dataset.step_um if dataset.axis == "z" else None,
        channel=dataset.channel,
        exposure_ms=dataset.exposure_ms,
        light=_light(scope, dataset.light or (channel.light if channel is not None else None), dataset.power_pct),
        emission=channel.emission if channel is not None else None,
        objective=_objective(cameras, dataset.camera),
        camera=CameraFacts(
            name=dataset.camera,
            label=scope.devices[dataset.camera].label,
            binning=camera.binning,
        ),
        bit_depth=camera.bit_depth,
        acquired_at=time.time(),
        about={key: value for key, value in about.items() if value is not None},
    )


def _light(scope: Scope, name: str | None, power_pct: float | None) -> LightFacts | None:
    if name is None or name not in scope.lights:
        return None
    light = scope.lights[name]
    return LightFacts(name, light.wavelength_nm, power_pct, laser=light.laser_class is not None)


def _objective(cameras: Cameras, camera: str) -> ObjectiveFacts | None:
    objective = cameras.objective(camera)
    if objective is None:
        return None
    return ObjectiveFacts(objective.label, objective.na, round(cameras.camera(camera).pixel_um / objective.pixel_um, 3))
