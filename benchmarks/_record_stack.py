"""The stack whose recorder is measured: two cameras of Micro-Manager's demo adapter and nothing that costs time besides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Scope, load_scope
from ..hardware import ConnectedHardware, FrameSettings, connect
from ..layout import Layout
from ..scripts import _operation
from ..scripts._up import stop
from .start import bring_up

_CFG = """\
Property,Core,Initialize,0
Device,DHub,DemoCamera,DHub
Device,Camera 1,DemoCamera,DCam
Device,Camera 2,DemoCamera,DCam
Device,Z,DemoCamera,DStage
Device,Lamp,DemoCamera,DShutter
Parent,Camera 1,DHub
Parent,Camera 2,DHub
Parent,Z,DHub
Parent,Lamp,DHub
Property,Core,Initialize,1
Property,Core,Camera,Camera 1
Property,Core,Focus,Z
Property,Core,AutoShutter,0
{cameras}"""
_CAMERA = """\
Property,{label},OnCameraCCDXSize,{size}
Property,{label},OnCameraCCDYSize,{size}
Property,{label},PixelType,16bit
"""
_SCOPE = """\
name: bench-record
micromanager: {{config: mm.cfg, buffer_mb: {buffer_mb}}}
devices:
  z:     {{label: Z, kind: stage, limits: [-300, 300], reference: none}}
  one:   {{label: Camera 1, kind: camera, pixel_um: 6.5, exposure_ms: [0, 1000]}}
  two:   {{label: Camera 2, kind: camera, pixel_um: 6.5, exposure_ms: [0, 1000]}}
  fast1: {{label: Camera 1, kind: property, property: FastImage, choices: ["0", "1"]}}
  fast2: {{label: Camera 2, kind: property, property: FastImage, choices: ["0", "1"]}}
lights:
  lamp: {{gate: {{label: Lamp}}, power: fixed}}
channels:
  bright: {{light: lamp, exposure_ms: 10}}
storage: {{min_free_gb: 0}}
services: {{http: {{port: 0}}}}
"""
CAMERAS = {"one": "Camera 1", "two": "Camera 2"}


@dataclass(frozen=True)
class RecordStack:
    """A running stack without a catalog."""

    scope: Scope
    layout: Layout
    adapters: str

    def pid(self, part: str) -> int:
        """Of one of the stack's processes."""
        runtime = self.layout.runtime()
        assert runtime is not None
        return int(runtime["pids"][part])

    def run(self, plan: str, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Run a plan through the queue; its result, its start and its stop document.

        Raises
        ------
        OperationFailedError
            Where it did not succeed.
        """
        with _operation.connect(self.layout) as scope:
            operation = scope.run(plan, kwargs=kwargs, progress=False)
        lines = self.layout.document_log(operation.run_uids[-1]).read_text().splitlines()
        documents = [json.loads(line) for line in lines]
        return dict(operation.result), documents[0]["doc"], documents[-1]["doc"]


@contextmanager
def record_stack(size: int, buffer_mb: int) -> Iterator[RecordStack]:
    """Cameras of ``size``² uint16, whose frames cost the camera as little as it can do."""
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as name:
        folder = Path(name)
        sized = "".join(_CAMERA.format(label=label, size=size) for label in CAMERAS.values())
        (folder / "mm.cfg").write_text(_CFG.format(cameras=sized))
        (folder / "scope.yml").write_text(_SCOPE.format(buffer_mb=buffer_mb))
        scope, layout = load_scope(folder, environ={}), Layout(folder / "data")
        bring_up(scope, layout, "--no-catalog")
        try:
            hardware: ConnectedHardware = connect(scope, layout, timeout_s=30)
            try:
                for camera, fast_property in (("one", "fast1"), ("two", "fast2")):
                    hardware.snap(camera, FrameSettings())  # the fast image is the last real one: all zeros without
                    hardware.set_value(fast_property, "1")
                adapters = hardware.info().adapters
            finally:
                hardware.close()
            yield RecordStack(scope, layout, adapters)
        finally:
            stop(layout)


def peer(stack: RecordStack, **asked: Any) -> dict[str, Any]:
    """Run a peer in a process of its own (`_record_peers`)."""
    words = {
        "config": str(stack.scope.config_path),
        "adapters": stack.adapters,
        "buffer_mb": stack.scope.micromanager.buffer_mb,
        "folder": str(stack.layout.volumes),
        **asked,
    }
    return child("_record_peers", **words)


def child(module: str, **asked: Any) -> dict[str, Any]:
    """Run a module of this package in a process of its own, which prints its answer.

    Raises
    ------
    RuntimeError
        With what it printed, where it failed.
    """
    command = [sys.executable, "-m", f"{__package__}.{module}", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYMM_LOG_FILE": "0"})
    if done.returncode:
        raise RuntimeError(f"{module} {asked.get('case', '')}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def delete_volumes(layout: Layout, run_uid: str) -> None:
    """The frames of a run that was measured."""
    for path in layout.volumes.glob(f"{run_uid}_*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
