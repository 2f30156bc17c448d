"""Start the hardware process.

``python -m queuescope.hardware --scope demo-dispim --data DIR`` loads the scope's Micro-Manager configuration, closes every
gate, listens on the unix socket of the data directory (or at ``services.hardware``) and prints ``{"event": "ready", …}``.
Ctrl-C or SIGTERM stops motion and recordings, switches lights off, and ends it within 5 s.
``python -m queuescope.hardware --make-keys FOLDER --data DIR`` makes the certificates that TCP needs, once, on the stack's
machine: its own into ``DIR/keys``, those of the hardware PC into FOLDER, from where they are moved to the PC's ``DIR/keys``.
Talk to it from Python: ``connect(load_scope("demo-dispim"), Layout("DIR")).state()``.
"""

import argparse
import gc
import logging
import os
import sys
from pathlib import Path

from ..config import ScopeError
from ..layout import Layout, process_arguments
from ._certificates import make_keys
from ._errors import ConfigurationError
from ._large_memory import share_heaps
from ._server import emit, serve


def _make_keys() -> int:
    parser = argparse.ArgumentParser(description="Make the certificates of both sides of services.hardware: tcp://…")
    parser.add_argument(
        "--make-keys", metavar="FOLDER", type=Path, required=True, help="for the hardware PC's keys folder"
    )
    parser.add_argument("--data", default=None, help="the stack's data directory")
    arguments = parser.parse_args()
    layout = Layout(arguments.data)
    try:
        layout.create()
        make_keys(layout.keys, arguments.make_keys.expanduser().resolve())
    except (ConfigurationError, OSError) as error:
        print(f"queuescope.hardware: {error}", file=sys.stderr)
        return 1
    print(
        f"This side's keys are in {layout.keys}. Move the files of {arguments.make_keys} to the folder `keys` of the hardware"
    )
    print(
        "PC's data directory, over a way that you trust, and delete them here: whoever has them can be the microscope."
    )
    return 0


def main() -> None:
    if any(word.startswith("--make-keys") for word in sys.argv[1:]):
        sys.exit(_make_keys())
    gc.disable()  # until it is ready
    share_heaps()
    sys.setswitchinterval(0.0005)  # a frame's writer must not keep the next exposure waiting for 5 ms
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        scope, layout = process_arguments("The process that owns MMCore.")
    except ScopeError as error:
        emit("refused", error=str(error), type="ScopeError")
        print(f"queuescope.hardware: {error}", file=sys.stderr)
        sys.exit(1)
    code = serve(scope, layout)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a library's thread that is still in C++ must not keep the process, nor abort its exit


if __name__ == "__main__":
    main()
