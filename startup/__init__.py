"""queueserver's startup module: ``--startup-module queuescope.startup`` fills the worker's namespace.

Inside an RE worker the import connects to the hardware and builds RunEngine, devices and plans, once, from the scope file
that ``QUEUESCOPE_SCOPE`` names and the data directory ``QUEUESCOPE_DATA``. Elsewhere the import does nothing:
``python -m queuescope.startup`` starts queueserver itself, with our guards.
"""

from __future__ import annotations

from bluesky_queueserver import is_re_worker_active

if is_re_worker_active():
    from ._namespace import namespace

    globals().update(namespace())
    del namespace
del is_re_worker_active
