"""A recording: the datasets of one run, their counts, and a state that can be waited for."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

from ..config import Scope
from ..layout import dataset_uri
from ._dataset_files import DatasetFiles
from ._dose import Account
from ._errors import RecordingError
from ._surface import DatasetState, RecordingPlan, RecordingState

Phase = Literal["open", "running", "done", "failed", "closed"]


class Dataset:
    """Counts of one dataset. Frames land in any order; they count in theirs. Guarded by the recording's condition."""

    def __init__(self, files: DatasetFiles, uri: str) -> None:
        self.files, self.uri, self.plan = files, uri, files.plan
        self.submitted = 0
        self.written = 0
        self.checksums: list[str] = []
        self._landed: dict[int, dict[str, Any]] = {}

    def room(self) -> float:
        """Frames that may still come."""
        return float("inf") if self.plan.frames is None else self.plan.frames - self.submitted

    def landed(self, line: dict[str, Any]) -> None:
        """A frame's bytes are durable: it counts as soon as all before it do."""
        self._landed[line["index"]] = line
        while self.written in self._landed:
            line = self._landed.pop(self.written)
            self.files.append_line(line)
            self.checksums.append(line["checksum"])
            self.written += 1
        if self.plan.frames is None:
            self.files.set_frames(self.written, durable=False)  # frames.jsonl is the truth; `finish` makes it durable

    def state(self, ended: bool) -> DatasetState:
        height, width = self.files.frame_shape
        frames = self.written if ended or self.plan.frames is None else self.plan.frames
        return DatasetState(
            name=self.plan.name,
            camera=self.plan.camera,
            uri=self.uri,
            path=str(self.files.path),
            shape=(frames, height, width),
            dtype=self.files.dtype.name,
            chunk_shape=(1, height, width),
            frames_written=self.written,
            format=self.files.format,
        )


class Recording:
    """One run's datasets. Every change raises `version` and wakes who waits."""

    def __init__(
        self, identity: str, scope: Scope, plan: RecordingPlan, files: dict[str, DatasetFiles], account: Account
    ) -> None:
        self.id, self.plan, self.account = identity, plan, account
        self.datasets = {
            name: Dataset(f, dataset_uri(scope, plan.run_uid, name, f.format)) for name, f in files.items()
        }
        self.changed = threading.Condition()
        self.phase: Phase = "open"
        self.error: str | None = None
        self.in_flight = 0
        self._held = False
        self._why: str | None = None
        self._closing = threading.Lock()
        self._counted = False
        self._version = 0
        self._began: float | None = None
        self._seconds = 0.0

    def state(self) -> RecordingState:
        with self.changed:
            return RecordingState(
                recording=self.id,
                run_uid=self.plan.run_uid,
                phase=self.phase,
                datasets={name: dataset.state(self.phase == "closed") for name, dataset in self.datasets.items()},
                error=self.error,
                held=self._held,
                dose=dict(self.account.measured),
                seconds=self._seconds,
                version=self._version,
            )

    def touch(self) -> None:
        """Something changed. Call with `changed` held."""
        self._version += 1
        self.changed.notify_all()

    def wait(self, seen: int, wait_s: float, gather_s: float) -> RecordingState:
        """The state when its version exceeds ``seen``, or after ``wait_s``; ``gather_s`` after that, or when it has ended."""
        with self.changed:
            if self.changed.wait_for(lambda: self._version > seen, wait_s):
                self.changed.wait_for(lambda: self.phase not in ("open", "running"), gather_s)
            return self.state()

    def begin(self) -> None:
        """A program prepares its first frame."""
        with self.changed:
            self._began = None
            self.enter("running")

    def exposing(self) -> None:
        """An exposure begins: `RecordingState.seconds` count from the program's first."""
        if self._began is None:
            self._began = time.monotonic()

    def hold(self, held: bool) -> None:
        """Its volume or burst waits, or goes on."""
        with self.changed:
            self._held = held
            self.touch()

    def fail(self, why: str) -> None:
        """Nothing more may come, and frames still on their way are dropped: `drain` first where they are good.

        The first reason stays. A running volume or burst stays ``running`` until it has ended.
        """
        with self.changed:
            if self._why is None and self.phase != "closed":
                self._why = why
                self.error = self._told()
                if self.phase != "running":
                    self.phase = "failed"
                self.touch()

    @property
    def failed(self) -> bool:
        return self._why is not None

    def _told(self) -> str:
        counts = ", ".join(
            f"{d.written} of {d.plan.frames if d.plan.frames is not None else d.submitted} frames of {name}"
            for name, d in self.datasets.items()
        )
        return f"{self._why}; good frames on disk: {counts}"

    def enter(self, phase: Phase) -> None:
        """Change the phase; a recording that failed can only be closed."""
        with self.changed:
            self.phase = "failed" if self.failed and phase != "closed" else phase
            if self.failed:
                self.error = self._told()
            self.touch()

    def drain(self, limit_s: float) -> bool:
        """Wait until no frame is on its way to the disk; False after ``limit_s``."""
        with self.changed:
            return self.changed.wait_for(lambda: self.in_flight == 0, limit_s)

    def close(self, limit_s: float) -> RecordingState:
        """Finish the files; twice is no error.

        Raises
        ------
        RecordingError
            Where the frames in hand did not reach the disk in time, or the metadata could not be written.
        """
        with self._closing:  # not `changed`: a slow disk keeps nobody waiting who asks for the state
            if self.phase == "closed":
                return self.state()
            drained = self.drain(limit_s)
            with self.changed:
                if not drained:
                    self.fail(f"{self.in_flight} frames did not reach the disk within {limit_s:g} s")
                written = {name: dataset.written for name, dataset in self.datasets.items()}
                self._counted = True
                planned = {name: dataset.plan.frames for name, dataset in self.datasets.items()}
                if any(frames is not None and written[name] < frames for name, frames in planned.items()):
                    self.fail("closed before all frames had come")
            try:
                for name, dataset in self.datasets.items():
                    dataset.files.finish(written[name])
            except OSError as error:
                self.fail(f"the files could not be finished: {error}")
                raise RecordingError(str(self.error), **self.counts()) from error
            finally:
                self.enter("closed")
            return self.state()

    def counts(self) -> dict[str, Any]:
        """Fields of a `RecordingError`."""
        return {"frames_written": {name: dataset.written for name, dataset in self.datasets.items()}}

    def submit(self, name: str) -> int:
        """Index of the next frame of a dataset, which is on its way now."""
        with self.changed:
            dataset = self.datasets[name]
            index = dataset.submitted
            dataset.submitted += 1
            self.in_flight += 1
            return index

    def land(self, name: str, line: dict[str, Any]) -> None:
        """A frame is durable. It is too late where its dataset is being finished: it doesn't count."""
        with self.changed:
            if self._counted:
                return
            self.datasets[name].landed(line)
            if self._began is not None:
                self._seconds = time.monotonic() - self._began
            self.touch()

    def done_with_one(self) -> None:
        """A frame is no longer on its way, be it written or lost."""
        with self.changed:
            self.in_flight -= 1
            self.changed.notify_all()


def line_of(
    index: int, began: float, position: dict[str, float], checksum: str, programmed: bool = False
) -> dict[str, Any]:
    """One line of ``….frames.jsonl``; ``programmed`` stands where the position was commanded and not read back."""
    line = {"index": index, "time": began, "position": position, "checksum": checksum}
    return {**line, "programmed": True} if programmed else line
