"""R0.10: what each kind of process imports before it is ready. Whoever starts it waits for all of it, each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from queuescope.scripts import cli

HEAVY = {
    *(
        "pymmcore",
        "pymmcore_plus",
        "Pyro5",
        "msgpack",
        "bluesky",
        "ophyd",
        "bluesky_queueserver",
        "event_model",
        "useq",
    ),
    *(
        "fastapi",
        "starlette",
        "uvicorn",
        "sqlalchemy",
        "tiled",
        "databroker",
        "bluesky_tiled_plugins",
        "strawberry",
        "redis",
    ),
    *(
        "pandas",
        "dask.array",
        "dask.dataframe",
        "xarray",
        "pyarrow",
        "awkward",
        "numba",
        "scipy",
        "skimage",
        "matplotlib",
    ),
    *(
        "PIL",
        "tifffile",
        "zarr",
        "blosc2",
        "ome_types",
        "ome_writers",
        "yaozarrs",
        "IPython",
        "networkx",
        "httpx._main",
    ),
}
"""What nobody imports unless it is named here."""
TILED = {"tiled", "bluesky_tiled_plugins", "event_model", "msgpack", "pyarrow"}

KINDS: dict[str, tuple[str, set[str], set[str]]] = {
    "a command": (
        """
from queuescope.scripts.cli import app_for
app_for(["status"])
from queuescope.scripts import _status
""",
        set(),
        {"pydantic", "yaml", "numpy", "asyncio", "httpx", "rich.progress", "queuescope.hardware", "queuescope.ledger"},
    ),
    "the help": (
        """
from queuescope.scripts.cli import complete_app
complete_app()
""",
        set(),
        {"pydantic", "numpy", "asyncio", "httpx", "rich.progress", "queuescope.hardware", "queuescope.ledger"},
    ),
    "the supervisor": (
        """
import sys
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.scripts import _stack, _supervise
from queuescope.scripts._checks import Ports
from queuescope.scripts._probes import NoAnswer
layout = Layout(sys.argv[1])
layout.create()
parts = _stack.parts(load_scope("demo-dispim"), layout, Ports("127.0.0.1", 1, "127.0.0.1", 2))
for part in parts:  # as it does once a second; here nobody answers
    try:
        (part.alive or part.answers)()
    except NoAnswer:
        pass
""",
        {"Pyro5", "msgpack"},
        {"numpy"},
    ),
    "a client": ("from queuescope.agents import Scope", {"httpx._main"}, {"pydantic", "yaml", "numpy"}),
    "whoever uses an interface": (
        "import queuescope.hardware, queuescope.reading, queuescope.ledger, queuescope.server, queuescope.tiled_config",
        set(),
        set(),
    ),
    "hardware": (
        """
import queuescope.hardware.__main__
from queuescope.hardware._mmcore import import_mmcore
import_mmcore().CMMCorePlus
""",
        {"pymmcore", "pymmcore_plus", "Pyro5", "msgpack"},
        {"unittest.mock"},
    ),
    "the queue server": (
        """
import queuescope.startup.__main__
from queuescope.startup._lean import lean
with lean():
    from queuescope.startup import _checking, _queueserver
from ophyd.areadetector import ADBase
assert not isinstance("device", ADBase)
""",
        {"bluesky", "ophyd", "bluesky_queueserver", "event_model", "useq", "redis", "msgpack"},
        {"ophyd.areadetector", "ophyd.quadem"},
    ),
    "the courier": (
        """
import queuescope.tiled_config.__main__
from queuescope.tiled_config._lean import lean
with lean("sqlalchemy", "sqlalchemy.pool"):
    import queuescope.tiled_config._courier
""",
        TILED,
        set(),
    ),
    "Tiled": (
        """
import sys
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.tiled_config import prepare, tiled_server
from queuescope.tiled_config._lean import lean
with lean():
    tiled_server._application(prepare(load_scope("demo-dispim"), Layout(sys.argv[1])))
""",
        {*TILED, "fastapi", "starlette", "uvicorn", "sqlalchemy"},
        {"graphql"},
    ),
}
"""What a process of this kind imports, what heavy things it needs then, and what else must not be there (the REST server:
`tests/server`)."""

TOLD = """

import json, sys
from queuescope.lean import is_deferred
print(json.dumps([name for name, module in sys.modules.items() if not is_deferred(module)]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_imports_only_what_it_needs(kind: str, tmp_path: Path) -> None:
    code, needed, besides = KINDS[kind]
    told = subprocess.run([sys.executable, "-c", code + TOLD, str(tmp_path)], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert not ((HEAVY - needed) | besides) & set(json.loads(told.stdout.splitlines()[-1]))


def test_each_command_is_found_where_it_is_said_to_be() -> None:
    """`queuescope NAME` imports one module: what the table says of it must be what that module adds."""
    app = cli.complete_app()
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert sorted(names) == sorted([*cli.HERE, *(name for names in cli.ELSEWHERE.values() for name in names)])
