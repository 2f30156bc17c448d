"""`mda` beside pymmcore-plus's own engine: the same frames in the same order, as SequenceTester writes them into each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import mm_test_adapters
import pytest
import useq
import zarr
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.mda import MDAEngine
from pymmcore_plus.seq_tester import decode_image

from queuescope.plans._sequence_survey import survey
from queuescope.startup._session import Session, open_session

from .test_mda import EXAMPLES, in_fields
from .test_templates import documents, run

CFG = """\
Property,Core,Initialize,0
Device,THub,SequenceTester,THub
Device,Camera,SequenceTester,TCamera-0
Device,XY,SequenceTester,TXYStage-0
Device,Focus,SequenceTester,TZStage-0
Device,Wheel,SequenceTester,TSwitcher-0
Device,Gate,SequenceTester,TShutter-0
{devices}Parent,Camera,THub
Parent,XY,THub
Parent,Focus,THub
Parent,Wheel,THub
Parent,Gate,THub
Property,Camera,ImageMode,MachineReadable
Property,Camera,ImageWidth,256
Property,Camera,ImageHeight,256
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,XYStage,XY
Property,Core,Focus,Focus
Property,Core,AutoFocus,{autofocus}
Property,Core,AutoShutter,0
ConfigGroup,Channel,DAPI,Wheel,State,1
ConfigGroup,Channel,FITC,Wheel,State,2
ConfigGroup,Channel,Cy5,Wheel,State,3
ConfigGroup,Channel,Cy3,Wheel,State,4
"""
OURS = {"Z": "TAutofocus-0"}
THEIRS = {"Z": "TAFStage-0", "AF": "TAutofocus-0"}
"""useq's examples name an autofocus Z. To pymmcore-plus that is the stage that sets its offset, to us the autofocus."""


def cfg(devices: dict[str, str]) -> str:
    """With these of SequenceTester's devices by label, of which the last is the autofocus."""
    lines = [f"Device,{label},SequenceTester,{name}\nParent,{label},THub\n" for label, name in devices.items()]
    return CFG.format(devices="".join(lines), autofocus=list(devices)[-1])


SCOPE = """\
name: sequences
micromanager: {config: mm.cfg, process: worker}
devices:
  xy: {label: XY, kind: xy_stage, limits: {x: [-90000, 90000], y: [-90000, 90000]}, reference: none}
  z: {label: Focus, kind: stage, limits: [-1000, 1000], reference: none}
  autofocus: {label: Z, kind: autofocus, axis: z, offset: [-100, 100]}
  camera: {label: Camera, kind: camera, pixel_um: 1, exposure_ms: [0.1, 1000]}
lights:
  lamp: {gate: {label: Gate}, power: fixed}
channels:
  dapi: {light: lamp, preset: [Channel, DAPI], exposure_ms: 1}
  fitc: {light: lamp, preset: [Channel, FITC], exposure_ms: 1}
  cy5: {light: lamp, preset: [Channel, Cy5], exposure_ms: 1}
  cy3: {light: lamp, preset: [Channel, Cy3], exposure_ms: 1}
storage: {min_free_gb: 0}
"""


def quick(raw: Any) -> Any:
    """The same without waiting: time points in quick succession, three where there are many, short exposures."""
    if isinstance(raw, list):
        return [quick(one) for one in raw]
    if not isinstance(raw, dict):
        return raw
    found = {key: quick(one) for key, one in raw.items()}
    if "loops" in found and "interval" in found:
        found |= {"interval": 0.0, "loops": found["loops"] if found["loops"] <= 5 else 3}
    elif "duration" in found and "interval" in found:
        found |= {"interval": 0.01, "duration": 0.02}
    if "exposure" in found:
        found["exposure"] = 1.0
    return found


@pytest.fixture(scope="module")
def tester(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("tester")
    (folder / "mm.cfg").write_text(cfg(OURS))
    (folder / "scope.yml").write_text(SCOPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(folder / "data"))
        patch.setenv("QUEUESCOPE_SCOPE", str(folder))
        opened = open_session()
    yield opened
    opened.hardware.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CMMCorePlus]:
    """pymmcore-plus's own, on a core of its own with the same devices."""
    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([str(mm_test_adapters.device_adapter_path())])
    path = tmp_path_factory.mktemp("engine") / "mm.cfg"
    path.write_text(cfg(THEIRS))
    core.loadSystemConfiguration(str(path))
    core.mda.set_engine(MDAEngine(core, use_hardware_sequencing=False))
    yield core
    core.unloadAllDevices()


HERE = {name: in_fields(quick(raw)) for name, raw in EXAMPLES.items()}


def seen(image: Any) -> tuple[Any, ...]:
    """Where the devices truly were when this frame was taken: steps of x and y, µm of z, position of the wheel; and whether it
    was focused since the frame before.
    """
    packet = decode_image(image)
    states = {(one.device, one.property): one.value for one in packet.current_state}
    names = ["TXYStage-0 XPositionSteps", "TXYStage-0 YPositionSteps", "TZStage-0 ZPositionUm", "TSwitcher-0 Position"]
    focused = any(
        one.property == "FullFocus" or (one.property == "ContinuousFocusEnabled" and one.value)
        for one in packet.history
        if one.device == "TAutofocus-0"
    )
    return (*(states[tuple(name.split())] for name in names), focused)  # type: ignore[index]


def begin(mm: Any) -> None:
    mm.setXYPosition("XY", 0.0, 0.0)
    mm.setPosition("Focus", 0.0)
    mm.setState("Wheel", 0)


def by_their_engine(core: CMMCorePlus, sequence: useq.MDASequence) -> list[tuple[dict[str, int], Any]]:
    frames: list[tuple[dict[str, int], Any]] = []

    def ready(image: Any, event: useq.MDAEvent) -> None:
        frames.append((dict(event.index), seen(image)))

    core.mda.events.frameReady.connect(ready)
    try:
        core.mda.run(sequence)
    finally:
        core.mda.events.frameReady.disconnect(ready)
    return frames


def by_our_plan(session: Session, raw: Any) -> list[tuple[dict[str, int], Any]]:
    run_uid = run(session, "mda", {"sequence": raw}).run_start_uids[0]
    docs = documents(session, run_uid)
    streams = {doc["uid"]: doc["name"] for kind, doc in docs if kind == "descriptor"}
    images, frames = dict[str, Any](), list[tuple[dict[str, int], Any]]()
    for kind, doc in docs:
        stream = streams[doc["descriptor"]] if kind == "event" else "rounds"
        if stream == "rounds":
            continue
        name = "camera" if stream == "primary" else f"camera_{stream}"
        if name not in images:
            images[name] = zarr.open_array(session.layout.volumes / f"{run_uid}_{name}.ome.zarr" / "0", mode="r")
        index = {axis: doc["data"][f"index_{axis}"] for axis in "tpgcz" if doc["data"][f"index_{axis}"] >= 0}
        frames.append((index, seen(images[name][doc["seq_num"] - 1])))
    return frames


@pytest.mark.filterwarnings("ignore::UserWarning:useq")
@pytest.mark.parametrize("name", sorted(HERE))
def test_the_same_frames_in_the_same_order(tester: Session, engine: CMMCorePlus, name: str) -> None:
    """Issue 5, item 4: every example of useq-schema's documentation and tests that these devices can do."""
    raw = HERE[name]
    begin(engine)
    theirs = by_their_engine(engine, useq.MDASequence.model_validate(copy.deepcopy(raw)))
    begin(tester.hardware._microscope._core.mm)
    assert by_our_plan(tester, raw) == theirs
    assert len(theirs) == sum(survey(raw, tester.scope).frames.values()) > 0
