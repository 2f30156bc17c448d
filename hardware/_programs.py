"""What must be right about a volume or a burst, whoever times it, before anything moves or shines."""

from __future__ import annotations

from ._axes import Axes
from ._cameras import Cameras
from ._errors import ArgumentError, RecordingError, UnknownNameError
from ._pace import in_order, targets_of
from ._recording import Recording
from ._surface import BurstProgram, BurstView, VolumeProgram, VolumeView
from ._together import MultiCameras


def check_volume(
    recording: Recording, program: VolumeProgram, axes: Axes, cameras: Cameras, together: MultiCameras
) -> None:
    """Everything that doesn't depend on the pace, before anything moves.

    Raises
    ------
    LimitError, UnknownNameError, ArgumentError, RecordingError
        Naming what doesn't fit.
    """
    _check_names(program)
    lengths = {view.dataset: len(view.piezo_um) for view in program.views}
    if min(lengths.values()) < 1 or (program.order == "slice" and len(set(lengths.values())) > 1):
        raise ArgumentError(
            f"piezo_um must have at least one slice, and the same number in every view when the order is by slice: {lengths}",
            thing="program.views.piezo_um",
            value=lengths,
        )
    for view in program.views:
        _check_view(recording, view, axes, cameras, together)
    axes.check_sequence([targets_of(view, index) for view, index in in_order(program)], back=not program.stays)


def check_burst(recording: Recording, program: BurstProgram, cameras: Cameras) -> None:
    """Everything that doesn't depend on the cameras' timing, before any light.

    Raises
    ------
    LimitError, UnknownNameError, ArgumentError, RecordingError
        Naming what doesn't fit.
    """
    _check_names(program)
    lights = {(view.settings.light, view.settings.power_pct) for view in program.views}
    if len(lights) > 1:
        raise ArgumentError(
            f"cameras of a burst expose at the same time, so they have one light and power, not {sorted(map(str, lights))}",
            thing="program.views.settings",
            value=sorted(map(str, lights)),
        )
    for view in program.views:
        _check_dataset(recording, view, view.frames, cameras)


def _check_names(program: VolumeProgram | BurstProgram) -> None:
    names = [view.dataset for view in program.views]
    if len(set(names)) != len(names):
        raise ArgumentError(f"two views record the same dataset: {names}", thing="program.views", value=names)


def _check_view(recording: Recording, view: VolumeView, axes: Axes, cameras: Cameras, together: MultiCameras) -> None:
    if together.has(view.camera):
        together.check(view.camera, view.settings)
        for dataset in together.datasets(view.camera, recording).values():
            _check_room(recording, dataset, len(view.piezo_um))
    else:
        _check_dataset(recording, view, len(view.piezo_um), cameras)
    for target in view.piezo_um:
        axes.check(view.piezo, target)
    if (view.galvo is None) != (view.galvo_deg is None):
        raise ArgumentError("galvo and galvo_deg belong together: give both or neither", thing="program.views.galvo")
    if view.galvo is not None and view.galvo_deg is not None:
        if len(view.galvo_deg) != len(view.piezo_um):
            raise ArgumentError(
                f"{view.dataset}: {len(view.galvo_deg)} galvo targets for {len(view.piezo_um)} slices",
                thing="program.views.galvo_deg",
                value=len(view.galvo_deg),
            )
        for target in view.galvo_deg:
            axes.check(view.galvo, target)


def _check_dataset(recording: Recording, view: VolumeView | BurstView, frames: int, cameras: Cameras) -> None:
    """The dataset is this camera's, has room for its frames, and the settings lie inside their limits."""
    if view.dataset not in recording.datasets:
        known = sorted(recording.datasets)
        raise UnknownNameError(
            f"{view.dataset!r} is none of this recording's datasets {known}",
            thing="dataset",
            value=view.dataset,
            known=known,
        )
    dataset = recording.datasets[view.dataset]
    if view.camera != dataset.plan.camera:
        raise ArgumentError(
            f"dataset {view.dataset} was opened for camera {dataset.plan.camera}, not {view.camera}",
            thing="program.views.camera",
            value=view.camera,
        )
    _check_room(recording, view.dataset, frames)
    cameras.check(view.camera, view.settings)


def _check_room(recording: Recording, dataset: str, frames: int) -> None:
    room = recording.datasets[dataset].room()
    if frames > room:
        raise RecordingError(
            f"{dataset} has room for {room:g} more frames, {frames} are asked for: open a recording with as many frames as"
            " will come",
            **recording.counts(),
        )
