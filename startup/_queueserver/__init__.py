"""Everything of bluesky-queueserver's insides that we touch, in one package.

Subclasses, handed to queueserver's own `WatchdogProcess`:

* `ScopeWorker` sees every start, continuation and end of a plan: it claims each plan in the ledger before it starts, completes
  the start document, keeps run UIDs, outcome and result in the ledger and closes all lights when a plan is done or pauses.
* `ScopeManager` refuses bad parameters, and frames that the disk has no room for, at submission, whatever way they come in,
  leaves autostart on after a keyed failure, and holds queue and ledger against each other when it starts.
* `KeyedPlanQueue` takes each operation once and never puts it back, tells the ledger what was queued, removed or lost, and
  reaches Valkey with a password that stands on no command line and in no log.

``tests/startup/test_upstream.py`` pins the source of each upstream method that is overridden or relied on here: it fails
when a new version changes one.
"""

from ._manager import ScopeManager
from ._process import die_with_parent
from ._queue import KeyedPlanQueue
from ._store import valkey_address, wait_for_valkey
from ._watchdog import ScopeWatchdog
from ._worker import ScopeWorker

__all__ = [
    "KeyedPlanQueue",
    "ScopeManager",
    "ScopeWatchdog",
    "ScopeWorker",
    "die_with_parent",
    "valkey_address",
    "wait_for_valkey",
]
