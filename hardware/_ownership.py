"""One MMCore for a data directory: a lock that lives as long as the process which owns it."""

from __future__ import annotations

import os
from typing import IO

from ..layout import Layout
from ._errors import ConfigurationError


class Ownership:
    """Held from loading to unloading. A socket file without its lock is a dead process's."""

    def __init__(self, layout: Layout, mode: str) -> None:
        """
        Raises
        ------
        ConfigurationError
            Where another process owns the hardware of this data directory (its pid is named), or the directory can't be
            used.
        """
        self._file: IO[str] | None = None
        try:
            layout.create()
            file = open(layout.sockets / "hardware.lock", "a+", encoding="ascii")  # noqa: SIM115 (held, not read)
        except OSError as error:
            raise ConfigurationError(
                f"the data directory {layout.data} can't be used: {error}: choose another one (--data)",
                thing="data",
                value=str(layout.data),
            ) from error
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows: the TCP port is exclusive there
        except OSError:
            file.seek(0)
            pid, _, other = (file.read().strip() or "unknown").partition(" ")
            file.close()
            if other and other != mode:
                raise ConfigurationError(
                    f"restart required: micromanager.process is now `{mode}`, and process {pid} runs the hardware of"
                    f" {layout.data} as `{other}`: stop the stack (queuescope down) and start it again",
                    thing="micromanager.process",
                    value=mode,
                ) from None
            raise ConfigurationError(
                f"the hardware of {layout.data} is already owned by process {pid}: stop it first, or use another data"
                " directory (--data)",
                thing="hardware",
                value=pid,
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {mode}")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Twice is no error."""
        if self._file is not None:
            self._file.close()
            self._file = None
