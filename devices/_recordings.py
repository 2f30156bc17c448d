"""What the run that is open writes to disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from event_model import ComposeStreamResource

from ..config import Scope
from ..formats import MIMETYPES, array_uri
from ..hardware import (
    DatasetPlan,
    DatasetState,
    FrameLine,
    Hardware,
    HardwareError,
    HardwareGoneError,
    RecordingPlan,
    RecordingState,
)
from ..layout import Layout, found_uri, frame_list, frames_on_disk, resolve_uri

ALONE_S = 8.0
"""A hardware process behind a cut link may add frames for so long: until it knows that it is alone, and ends its volume."""
AGAIN_S = 0.2
LONGEST_NAME = 128
"""Of a session, in a file's metadata."""


class RunRecordings:
    """The recordings of the open run: devices open them, the end of the run closes them, whatever way it ends.

    The RunEngine of `queuescope.startup` calls `start_run` and `end_run`; a device asks `open` when its first frame is due.
    """

    def __init__(self, scope: Scope, layout: Layout, hardware: Hardware) -> None:
        self._scope = scope
        self._layout = layout
        self._hardware = hardware
        self._lock = threading.Lock()
        self._run_uid: str | None = None
        self._open: dict[str, str] = {}
        """Dataset name to recording."""
        self._streams: list[AssetStream] = []
        self._sample_id: str | None = None
        self._position: str | None = None
        self._session_id: str | None = None
        self.ending = False
        """Whoever pauses the plan is about to stop it: what can't be held is ended then, not waited for."""
        self.dose: dict[str, float] = {}
        """By light: what the frames of the run that ended last got, in % × s, as the hardware measured it."""

    def start_run(
        self, run_uid: str, sample_id: str | None = None, position: str | None = None, session_id: object = None
    ) -> None:
        """``sample_id`` and the name of a ``position``: whom the light of the run's frames counts for. They and the
        ``session_id`` go into the files' metadata.
        """
        with self._lock:
            self._run_uid, self._open, self._streams = run_uid, {}, []
            self._sample_id, self._position, self.dose = sample_id, position, {}
            self._session_id = None if session_id is None else str(session_id)[:LONGEST_NAME]  # clients give anything

    def count(self, dose: Mapping[str, float]) -> None:
        """Light of the run that is open beside its frames', by light in % × s."""
        for light, given in dose.items():
            self.dose[light] = self.dose.get(light, 0.0) + given

    def told(self) -> None:
        """The documents offered last have been emitted (an event was saved, or a flyer collected)."""
        for stream in self._streams:
            stream.commit()

    def past(self) -> None:
        """Nothing before is repeated (a checkpoint): frames that are told later are no longer in hand."""
        for stream in self._streams:
            stream.go_past()

    @property
    def run_uid(self) -> str | None:
        """Of the run that is open."""
        return self._run_uid

    def open(self, run_uid: str | None, *datasets: DatasetPlan, position: str | None = None) -> RecordingState:
        """Open the files of these datasets in a run.

        Parameters
        ----------
        run_uid
            The run that was open when the device was asked: its thread may come late, when that has been halted and the next one
            has begun.
        position
            Whose dose its light is; None: the run's.

        Raises
        ------
        RuntimeError
            Outside a run, where a frame would have no name, and for a run that has ended.
        """
        with self._lock:
            if run_uid is None:
                raise RuntimeError(
                    f"no run is open: dataset {datasets[0].name!r} needs one (bps.open_run before the camera)"
                )
            if run_uid != self._run_uid:
                raise RuntimeError(f"dataset {datasets[0].name!r} came too late: its run {run_uid} has ended")
            plan = RecordingPlan(
                run_uid=self._run_uid,
                datasets=datasets,
                sample_id=self._sample_id,
                position=self._position if position is None else position,
                session_id=self._session_id,
            )
            state = self._hardware.open_recording(plan)
            self._open |= {dataset.name: state.recording for dataset in datasets}
            return state

    def end_run(self) -> tuple[dict[str, int | None], str | None]:
        """Close the run's files.

        Returns
        -------
        tuple
            The frames written of each dataset, and why the files could not be closed (None where they were). Where the
            hardware has gone they are counted in the frame lists on disk; None where those can't be seen from here. One on
            another host is looked for during `ALONE_S` first, because only its own word, or that time, makes a count final.
        """
        with self._lock:
            run_uid, recordings = self._run_uid, dict(self._open)
            self._run_uid, self._open = None, {}
        frames: dict[str, int | None] = {}
        problems: list[str] = []
        for recording in dict.fromkeys(recordings.values()):
            try:
                state = self._close(recording)
                frames |= {name: dataset.frames_written for name, dataset in state.datasets.items()}
                for light, dose in state.dose.items():
                    self.dose[light] = self.dose.get(light, 0.0) + dose
            except HardwareError as error:
                problems.append(f"files not closed: {error}")
                for name in [n for n, of in recordings.items() if of == recording]:
                    frames[name] = self.on_disk(str(run_uid), name)
        return frames, "; ".join(problems) or None

    def _close(self, recording: str) -> RecordingState:
        deadline = time.monotonic() + (ALONE_S if self._scope.services.hardware else 0.0)
        while True:
            try:
                return self._hardware.close_recording(recording)
            except HardwareGoneError as error:
                if error.fields.get("closed") or time.monotonic() >= deadline:
                    raise
            time.sleep(AGAIN_S)

    def on_disk(self, run_uid: str, name: str) -> int | None:
        """Frames of a dataset, counted without the hardware; None where its folder can't be seen from here."""
        uri = found_uri(self._layout, self._scope, run_uid, name)
        return frames_on_disk(resolve_uri(self._layout, self._scope, uri, "tiled"))

    def lines_on_disk(self, run_uid: str, name: str, start: int) -> list[FrameLine]:
        """Of a dataset's frames from this number on, without the hardware; none where its folder can't be seen from here."""
        uri = found_uri(self._layout, self._scope, run_uid, name)
        log = frame_list(resolve_uri(self._layout, self._scope, uri, "tiled"))
        try:
            with log.open("rb") as file:
                whole = (line for line in islice(file, start, None) if line.endswith(b"\n"))
                return [FrameLine.of(json.loads(line)) for line in whole]
        except FileNotFoundError:
            return []

    def asset_stream(self, dataset: DatasetState, planned: int | None) -> AssetStream:
        """The stream documents of a dataset."""
        seen_by_tiled = resolve_uri(self._layout, self._scope, dataset.uri, "tiled")
        stream = AssetStream(dataset, array_uri(seen_by_tiled), planned)
        self._streams.append(stream)
        return stream


class AssetStream:
    """stream_resource and stream_datum documents of one dataset: one index a frame, only for frames on disk.

    Documents are offered when the RunEngine reads a device and emitted when it saves the event. A pause in between makes it
    read again, so what was offered counts only after `commit`.
    """

    def __init__(self, dataset: DatasetState, uri: str, planned: int | None) -> None:
        self._resource, self._datum = ComposeStreamResource()(
            data_key=dataset.name,
            mimetype=MIMETYPES[dataset.format],
            uri=uri,
            parameters={
                "chunk_shape": list(dataset.chunk_shape),
                "uri_client": dataset.uri,
                "frames_planned": planned,
            },
        )
        self.told = 0
        """Frames that emitted documents speak of."""
        self.taken = 0
        """Frames that were exposed one by one, be they on disk or not yet."""
        self.told_later = False
        """The plan goes on before documents tell of its frames."""
        self._offered = self._seen = self._past = 0

    @property
    def in_hand(self) -> bool:
        """A frame was exposed, and the plan isn't past it: after a pause it is asked for again."""
        return self.taken > self._past

    def documents(self, frames: int) -> Iterator[tuple[str, Any]]:
        """The documents that tell of all frames up to ``frames``; nothing where nothing is new."""
        self._seen = self.taken
        if frames <= self.told:
            return
        if self.told == 0:
            yield "stream_resource", dict(self._resource)
        self._offered = frames
        yield "stream_datum", dict(self._datum(indices={"start": self.told, "stop": frames}, validate=False))

    def go_past(self) -> None:
        if self.told_later:
            self._past = self.taken

    def commit(self) -> None:
        self.told, self._past = max(self.told, self._offered), max(self._past, self._seen)


def frame_key(dataset: DatasetState, label: str) -> dict[str, Any]:
    """The data key of a dataset: a frame of shape [height, width]."""
    kind = {"uint8": "|u1", "uint16": "<u2"}[dataset.dtype]
    return {
        "source": f"mm:{label}",
        "dtype": "array",
        "dtype_numpy": kind,
        "shape": list(dataset.shape[1:]),
        "external": "STREAM:",
    }
