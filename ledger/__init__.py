"""The record of operations: what was started for whom, what became of it, which runs it made; who approved and decided
what; samples."""

from __future__ import annotations

from ._approvals import READS_ONLY, Approval, ApprovalError, Approvals, waits_for_approval
from ._bell import Hints, Ring, bell, bell_socket, hints
from ._body import Body
from ._control import Control, before_control, read_control, write_control
from ._decisions import BY_DEFAULT, Decision, Decisions, DecisionState, Question, WrongAnswerError, WrongPart
from ._events import Event, Events
from ._holds import Hold, HoldReason
from ._items import meta_of
from ._ledger import Ledger
from ._left import Left
from ._operation import ACTIVE, ENDS, FAILURES, WAITING, Failure, Operation, OperationError, Retry, State
from ._operations import KEEP_S, Operations
from ._room import Room, Waits, room_for
from ._samples import SampleRecord, Samples

__all__ = [
    "ACTIVE",
    "BY_DEFAULT",
    "ENDS",
    "FAILURES",
    "KEEP_S",
    "READS_ONLY",
    "WAITING",
    "Approval",
    "ApprovalError",
    "Approvals",
    "Body",
    "Control",
    "Decision",
    "DecisionState",
    "Decisions",
    "Event",
    "Events",
    "Failure",
    "Hints",
    "Hold",
    "HoldReason",
    "Ledger",
    "Left",
    "Operation",
    "OperationError",
    "Operations",
    "Question",
    "Retry",
    "Ring",
    "Room",
    "SampleRecord",
    "Samples",
    "State",
    "Waits",
    "WrongAnswerError",
    "WrongPart",
    "before_control",
    "bell",
    "bell_socket",
    "hints",
    "meta_of",
    "read_control",
    "room_for",
    "waits_for_approval",
    "write_control",
]
