"""The interface itself: light to import, and the process lets nothing else through."""

from __future__ import annotations

import contextlib
import inspect
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgpack
import pytest
from pydantic import BaseModel

from queuescope.config import Scope
from queuescope.hardware import SURFACE, ArgumentError, Hardware, NotAllowedError, UnknownNameError, connect
from queuescope.hardware._surface import Image
from queuescope.hardware._wire import call_named
from queuescope.layout import Layout


def test_importing_the_interface_imports_no_heavy_library() -> None:
    """R0.10: neither MMCore nor an RPC library."""
    code = (
        "import sys, queuescope.hardware; print([m for m in ('pymmcore', 'pymmcore_plus', 'Pyro5', 'msgpack', 'yaozarrs',"
        " 'xxhash', 'zarr', 'bluesky', 'fcntl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_imports_without_unix(tmp_path: Path) -> None:
    """A Windows PC runs the hardware process: nothing that only Unix has is imported at import time."""
    code = (
        "import sys, os\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "for name in ('O_DIRECT', 'fdatasync', 'getuid'): delattr(os, name)\n"
        "import importlib, pathlib, queuescope.hardware as room\n"
        "for path in sorted(pathlib.Path(room.__file__).parent.glob('_[a-z]*.py')):\n"
        "    importlib.import_module(f'queuescope.hardware.{path.stem}')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_mode_is_decided_in_one_module() -> None:
    """R0.10: only ``_connect`` asks the scope for it."""
    import queuescope.hardware as room

    folder = Path(str(room.__file__)).parent
    asking = [
        path.name
        for path in sorted(folder.glob("*.py"))
        if "scope.micromanager.process" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["_connect.py"]


@pytest.mark.parametrize("name", SURFACE)
def test_no_call_takes_or_gives_a_bare_object(name: str) -> None:
    """R0.11: run, file names, budget and interlocks cross the boundary as values of stated types, down to the last entry."""
    hints = get_type_hints(getattr(Hardware, name))
    assert set(inspect.signature(getattr(Hardware, name)).parameters) - {"self"} == set(hints) - {"return"}
    for hint in hints.values():
        assert not bare(hint), hint


def bare(hint: Any) -> bool:
    """Whether something about it is left open."""
    parts = get_args(hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return any(bare(field.annotation) for field in hint.model_fields.values())
    if get_origin(hint) is Literal or hint is Image:
        return False
    return hint in (Any, object, dict, list, tuple, set) or any(bare(part) for part in parts if part is not ...)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, make_scope: Callable[..., Scope]) -> Iterator[Any]:
    """The endpoint of a process, spoken to with raw names and bytes."""
    from queuescope.hardware._microscope import Microscope
    from queuescope.hardware._server import Endpoint

    folder = tmp_path_factory.mktemp("scope")
    microscope = Microscope(make_scope(folder), Layout(folder / "data"), "own")
    yield Endpoint(microscope)
    microscope.close()


@pytest.mark.parametrize(
    "name", ["setPosition", "_core", "__init__", "close", "move ", "", 3, None, b"move", "a" * 1000]
)
def test_only_listed_names_are_answered(wire: Any, name: Any) -> None:
    """R0.5: the process itself refuses, whatever the client does."""
    reply = wire.call(name, msgpack.packb({}))
    with pytest.raises(NotAllowedError):
        call_named("info").unpack_result(reply)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xff" * 100,
        msgpack.packb([1]),
        msgpack.packb({"targets": {"z": 1.0}, "more": 1}),
        msgpack.packb({1: 2}),
        msgpack.packb({}),
        msgpack.packb({"targets": {"z": None}}),
        msgpack.packb({"targets": {"z": b"1"}}),
        msgpack.packb({"targets": [["z", 1.0]]}),
        10**9,
        "text",
    ],
)
def test_wrong_payloads_are_refused_and_nothing_moves(wire: Any, payload: Any) -> None:
    """R0.5: a clear error, the same axis positions."""
    before = wire.call("positions", msgpack.packb({"axes": ["z"]}))
    with pytest.raises(ArgumentError, match=r"^move"):
        call_named("move").unpack_result(wire.call("move", payload))
    assert wire.call("positions", msgpack.packb({"axes": ["z"]})) == before


def test_one_method_is_exposed(
    tmp_path: Path, make_scope: Callable[..., Scope], start_process: Callable[..., Any]
) -> None:
    """R0.5: over Pyro there is `call` and nothing else, for holders of the key only, in msgpack only."""
    import Pyro5.client
    import Pyro5.errors

    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    uri = f"PYRO:hardware@./u:{layout.hardware_socket}"
    with Pyro5.client.Proxy(uri) as proxy:
        proxy._pyroSerializer = "msgpack"
        proxy._pyroHandshake = layout.key("hardware")
        proxy._pyroBind()
        assert proxy._pyroMethods == {"call"}
        with pytest.raises(AttributeError):
            proxy.setPosition("PiezoStage:P:34", 1.0)
        with pytest.raises(AttributeError, match=r"unexposed|private"):
            proxy._pyroInvoke("_microscope", (), {})
    for handshake, serializer in (("wrong", "msgpack"), (None, "msgpack"), (layout.key("hardware"), "marshal")):
        with Pyro5.client.Proxy(uri) as proxy:
            proxy._pyroSerializer = serializer
            proxy._pyroHandshake = handshake
            with pytest.raises(Pyro5.errors.CommunicationError):
                proxy._pyroBind()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:  # garbage ends that connection and disturbs nobody
        raw.connect(str(layout.hardware_socket))
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        raw.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
    client = connect(scope, layout, timeout_s=5)
    client.close()
    layout.key_file("hardware").write_text("0" * 64)
    with pytest.raises(NotAllowedError, match="key of the hardware process is wrong"):
        connect(scope, layout, timeout_s=5)


def test_results_survive_the_wire() -> None:
    """R0.4: numbers, text and arrays of every dtype come back as they were."""
    import numpy as np

    value = call_named("value")
    for one in (1.5, "1.5", "", 0.0, -0.0):
        back = value.unpack_result(value.pack_result(one))
        assert (back, type(back)) == (one, type(one))
    snap = call_named("snap")
    for array in (
        np.arange(12, dtype="uint16").reshape(3, 4),
        np.zeros((2, 2), "uint8"),
        np.arange(6.0).reshape(2, 3).T,
    ):
        back = snap.unpack_result(snap.pack_result(array))
        assert back.dtype == array.dtype
        assert (back == array).all()
        assert back.flags.writeable


def test_unknown_names_in_models_reach_the_caller(wire: Any) -> None:
    call = call_named("open_recording")
    plan = {"run_uid": "12345678", "datasets": [{"name": "a", "camera": "none"}]}
    with pytest.raises(UnknownNameError):
        call.unpack_result(wire.call("open_recording", msgpack.packb({"plan": plan})))
    with pytest.raises(ArgumentError, match="run_uid"):
        call.unpack_result(wire.call("open_recording", msgpack.packb({"plan": {**plan, "run_uid": "../../x"}})))
