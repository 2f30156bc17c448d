"""queueserver's startup module: ``--startup-module queuescope.startup`` fills the worker's namespace.

Inside an RE worker the import connects to the hardware and builds RunEngine, devices and plans, once, from the scope file
that ``QUEUESCOPE_SCOPE`` names and the data directory ``QUEUESCOPE_DATA``. Elsewhere the import does nothing:
``python -m queuescope.startup`` starts queueserver itself, with our guards.
"""

from __future__ import annotations

import sys

_queueserver = sys.modules.get("bluesky_queueserver")  # where nobody has imported it there is no RE worker
if _queueserver is not None and _queueserver.is_re_worker_active():
    from ._namespace import namespace

    globals().update(namespace())
    del namespace
del _queueserver, sys
