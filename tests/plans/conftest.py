"""Workers' sessions with MMCore in this process (`process: worker`): on the demo diSPIM, and on a sample of beads."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queuescope.startup._session import Session, open_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with in_this_process("demo-dispim", tmp_path_factory.mktemp("data dir")) as opened:
        yield opened


@pytest.fixture(scope="module")
def beads_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with in_this_process("demo-beads", tmp_path_factory.mktemp("beads")) as opened:
        yield opened


@pytest.fixture
def beads(beads_session: Session) -> Iterator[Session]:
    """Near the focus, over the sample, with nothing stored; and whatever a test left is the next one's in no way."""
    beads = beads_session
    beads.layout.calibrations.unlink(missing_ok=True)
    beads.hardware.move({"xy.x": 0.0, "xy.y": 0.0})
    beads.hardware.move({"z": 10.0, "piezo_a": 5.0, "piezo_b": 0.0, "galvo_a.y": 0.02})
    beads.hardware.select("objective", beads.scope.objectives["air10"].label)
    yield beads
    beads.run_engine.msg_hook = None
    if beads.run_engine.state != "idle":
        beads.run_engine.abort()


@contextmanager
def in_this_process(scope: str, data: Path) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(data))
        patch.setenv("QUEUESCOPE_SCOPE", scope)
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        opened = open_session()
    try:
        yield opened
    finally:
        opened.hardware.close()
