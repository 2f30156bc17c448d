"""The last one out: ends the stack's processes when the supervisor is gone without having stopped them.

Started by the supervisor as ``python -I -S _reaper.py RUNTIME_JSON`` with a pipe as standard input. ``+ PGID`` names a process
group to look after, ``- PGID`` one that has ended. At end of file, which a ``kill -9`` of the supervisor brings about as
well, every group left gets SIGTERM, and SIGKILL after `GRACE_S`. It also holds the data directory's lock, inherited, so that
nobody starts a second stack while the first one is still going down. Only the standard library's core: it takes little memory.
"""

import contextlib
import os
import signal
import sys
import time

GRACE_S = 5.0


def end(groups: set[int], grace_s: float = GRACE_S) -> None:
    """SIGTERM to every process group, SIGKILL to those that are still there after ``grace_s``."""
    deadline = time.monotonic() + grace_s
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {group for group in left if _signal(group, 0)}
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number now belongs to somebody else's process
        return False
    return True


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its pipe, nothing else
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        sign, group = line.split()
        (groups.add if sign == b"+" else groups.discard)(int(group))
    if groups:
        end(groups)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(sys.argv[1])  # nothing runs any more


if __name__ == "__main__":
    main()
