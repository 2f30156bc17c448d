"""Tiled: the server's configuration (`prepare`), and the courier that delivers document logs to it.

``python -m queuescope.tiled_config.tiled_server`` is the server, ``python -m queuescope.tiled_config`` the courier.
Importing this package imports neither Tiled nor Bluesky.
"""

from ._prepare import prepare, tiled_url

__all__ = ["prepare", "tiled_url"]
