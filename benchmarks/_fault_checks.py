"""What must hold after every fault, looked at from outside: files on disk, the witness's log, the microscope's own answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash
import zarr

from ..hardware import HardwareError, connect
from ..hardware.simulated import attach
from ..layout import frames_on_disk
from ..scripts._probes import NoAnswer, http_request
from ._fault_stack import FaultStack

INVARIANTS = ("light", "axis", "stop document", "frames")


class Checks:
    """The four invariants, for the runs since the last look.

    Each check gives problems as ``(invariant, text)``; a problem may be true for a moment after a fault (files are being
    finished), so the campaign asks until there is none or its patience ends.
    """

    def __init__(self, stack: FaultStack) -> None:
        self._stack = stack
        self._key = stack.layout.key("observer")
        self.runs = self.frames = 0
        """Runs and frames that were checked and found right."""

    def problems(self) -> list[tuple[str, str]]:
        try:
            return [*self._lights_and_axes(), *self._controller(), *self._runs()]
        except (HardwareError, NoAnswer) as error:
            return [("light", f"nobody can be asked: {error}")]

    def forget(self) -> None:
        """Remove the runs that were checked, so that the next look is at new ones only."""
        for log in self._logs():
            for volume in self._volumes(log.stem):
                self.frames += frames_on_disk(volume) or 0
                shutil.rmtree(volume)
                _frame_list(volume).unlink(missing_ok=True)
            log.unlink()
            self.runs += 1

    def _logs(self) -> list[Path]:
        return sorted(self._stack.layout.documents.glob("*.jsonl"))

    def _volumes(self, run_uid: str) -> list[Path]:
        return sorted(self._stack.layout.volumes.glob(f"{run_uid}_*.ome.zarr"))

    def _lights_and_axes(self) -> Iterator[tuple[str, str]]:
        hardware = connect(self._stack.scope, self._stack.layout, timeout_s=5)
        try:
            state = hardware.state()
        finally:
            hardware.close()
        world = self._stack.world
        world.look()
        for name in world.lit:
            yield "light", f"{name} was switched on and never off, the witness says"
        for name, light in state.lights.items():
            if light.on:
                yield "light", f"{name} reads on"
        for text in world.strayed:
            yield "axis", text
        axes = self._stack.scope.axes()
        for name, position in state.positions.items():
            low, high = axes[name].limits
            if not low - axes[name].tolerance <= position <= high + axes[name].tolerance:
                yield "axis", f"{name} stands at {position}, outside [{low}, {high}]"
        for device, error in state.errors.items():
            yield "axis" if device in axes else "light", f"{device} can't be read: {error}"

    def _controller(self) -> Iterator[tuple[str, str]]:
        """The emulated controller is a process of its own: it is asked behind the hardware's back."""
        try:
            controller = attach(self._stack.layout.services)
        except ConnectionError as error:
            yield "light", str(error)
            return
        try:
            status = controller.status()
        finally:
            controller.close()
        if status["state"] == "Running" or "Running" in status["piezos"].values():
            yield "light", f"the controller fires on: {status['state']}, {status['piezos']}"
        for output in status["laser_on"]:
            yield "light", f"the controller's output {output} is on"
        for axis in self._stack.scope.axes().values():
            letters = axis.label.split(":")[1:2]  # "Scanner:AB:33": x is A, y is B
            letter = letters[0][0 if axis.component != "y" else -1] if letters else ""
            position = status["positions"].get(letter)
            if position is not None and not axis.limits[0] <= position <= axis.limits[1]:
                yield "axis", f"the controller has {axis.name} at {position}, outside {list(axis.limits)}"

    def _runs(self) -> Iterator[tuple[str, str]]:
        for log in self._logs():
            documents = _documents(log)
            if not documents or documents[-1][0] != "stop":
                last = documents[-1][0] if documents else "nothing"
                yield "stop document", f"run {log.stem} ends with {last}"
            else:
                yield from self._frames(log.stem, documents)
        known = {log.stem for log in self._logs()}
        for volume in self._stack.layout.volumes.glob("*.ome.zarr"):
            if volume.name.partition("_")[0] not in known:
                yield "stop document", f"{volume.name} belongs to no run"

    def _frames(self, run_uid: str, documents: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
        """Stop document, REST, stream documents, frame list, array and checksums: all must tell the same number."""
        told = dict(documents[-1][1].get("frames") or {})
        _, run = http_request(f"{self._stack.runtime['http']}/api/runs/{run_uid}", self._key)
        rest = {dataset["name"]: dataset["frames_written"] for dataset in (run or {}).get("datasets", [])}
        resources = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
        streamed: dict[str, int] = {}
        for name, doc in documents:
            if name == "stream_datum":
                data_key = resources[doc["stream_resource"]]
                streamed[data_key] = max(streamed.get(data_key, 0), doc["indices"]["stop"])
        for volume in self._volumes(run_uid):
            dataset = volume.name.removeprefix(f"{run_uid}_").removesuffix(".ome.zarr")
            readable, problem = readable_frames(volume)
            if problem is not None:
                yield "frames", f"{volume.name}: {problem}"
            if told.get(dataset, 0) != readable:
                yield "frames", f"{volume.name}: {readable} are readable, the stop document says {told.get(dataset)}"
            if rest.get(dataset, 0) != readable:
                yield "frames", f"{volume.name}: {readable} are readable, GET /api/runs says {rest.get(dataset)}"
            if streamed.get(dataset, 0) > readable:
                yield "frames", f"{volume.name}: {readable} are readable, documents tell of {streamed[dataset]}"
        for dataset in told.keys() - {v.name.removeprefix(f"{run_uid}_")[:-9] for v in self._volumes(run_uid)}:
            if told[dataset]:
                yield "frames", f"run {run_uid}: {told[dataset]} frames of {dataset} are told of and have no file"


def _documents(log: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [(line["name"], line["doc"]) for line in map(json.loads, lines)]


def _frame_list(volume: Path) -> Path:
    return volume.with_name(volume.name.replace(".ome.zarr", ".frames.jsonl"))


def readable_frames(volume: Path) -> tuple[int, str | None]:
    """Frames whose bytes give the checksum of their line, read through Zarr; and what else is wrong with the volume."""
    text = _frame_list(volume).read_text(encoding="utf-8") if _frame_list(volume).exists() else ""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        return len(lines) - 1, "its frame list ends with half a line"
    if not (volume / "0" / "zarr.json").exists():
        return len(lines), "it has frames and no array" if lines else None
    array: Any = zarr.open_array(f"{volume}/0", mode="r")
    if array.shape[0] != len(lines):
        return len(lines), f"its array has {array.shape[0]} frames, its list {len(lines)}"
    good = 0
    for index, line in enumerate(map(json.loads, lines)):
        if line["index"] != index:
            return good, f"line {index} of its list is of frame {line['index']}"
        if line["checksum"] != "xxh3_128:" + xxhash.xxh3_128_hexdigest(array[index].tobytes()):
            return good, f"frame {index} reads otherwise than the camera gave it"
        good += 1
    return good, None
