"""Start the hardware process.

``python -m queuescope.hardware --scope demo-dispim --data DIR`` loads the scope's Micro-Manager configuration, closes every
gate, listens on the unix socket of the data directory (or at ``services.hardware``) and prints ``{"event": "ready", …}``.
Ctrl-C or SIGTERM stops motion and recordings, switches lights off, and ends it within 5 s.
Talk to it from Python: ``connect(load_scope("demo-dispim"), Layout("DIR")).state()``.
"""

import logging
import os
import sys

from ..config import ScopeError
from ..layout import process_arguments
from ._server import emit, serve


def main() -> None:
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
