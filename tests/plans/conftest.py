"""One worker's session on the demo scope with MMCore in this process (`process: worker`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from queuescope.startup._session import Session, open_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder: Path = tmp_path_factory.mktemp("data dir")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(folder))
        patch.setenv("QUEUESCOPE_SCOPE", "demo-dispim")
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        opened = open_session()
    yield opened
    opened.hardware.close()
