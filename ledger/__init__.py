"""The record of operations: what was started for whom, what became of it, which runs it made; who approved what; samples."""

from __future__ import annotations

from ._approvals import READS_ONLY, Approval, ApprovalError, Approvals, waits_for_approval
from ._control import Control, before_control, read_control, write_control
from ._holds import Hold, HoldReason
from ._items import meta_of
from ._ledger import Execution, Ledger
from ._room import Room, Waits, room_for
from ._samples import SampleRecord, Samples

__all__ = [
    "READS_ONLY",
    "Approval",
    "ApprovalError",
    "Approvals",
    "Control",
    "Execution",
    "Hold",
    "HoldReason",
    "Ledger",
    "Room",
    "SampleRecord",
    "Samples",
    "Waits",
    "before_control",
    "meta_of",
    "read_control",
    "room_for",
    "waits_for_approval",
    "write_control",
]
