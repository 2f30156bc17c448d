"""Refusals as RFC 9457 problem bodies with a stable `code`.

`CODES` is the contract: what each code means for a client that wants to try again. ``docs/reference/rest.md`` holds the same
table for people; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MEDIA_TYPE = "application/problem+json"

Retry = Literal["same_key", "after_fix", "ask_person"]
"""``same_key``: the same request again, unchanged, is safe and may succeed. ``after_fix``: only a changed request can.
``ask_person``: nothing that this client may do helps."""


@dataclass(frozen=True)
class Code:
    status: int
    retry: Retry
    title: str


CODES: Mapping[str, Code] = {
    "unauthenticated": Code(401, "ask_person", "No valid key"),
    "forbidden": Code(403, "ask_person", "Not allowed for this role"),
    "key_in_url": Code(400, "after_fix", "Key in the URL"),
    "key_missing": Code(400, "after_fix", "Plan without a key"),
    "key_invalid": Code(400, "after_fix", "Not a key"),
    "invalid_body": Code(400, "after_fix", "Not a JSON object"),
    "too_large": Code(413, "after_fix", "Body too large"),
    "not_finite": Code(422, "after_fix", "Not a finite number"),
    "other_server": Code(421, "ask_person", "Not the server that was meant"),
    "not_found": Code(404, "after_fix", "No such route"),
    "method_not_allowed": Code(405, "after_fix", "No such method on this route"),
    "unknown_run": Code(404, "after_fix", "Unknown run"),
    "unknown_dataset": Code(404, "after_fix", "Unknown dataset"),
    "unknown_frame": Code(404, "after_fix", "No such frame on disk"),
    "outside_roots": Code(422, "after_fix", "Outside the storage roots"),
    "unsupported_file": Code(422, "after_fix", "Not a file that can be registered"),
    "already_registered": Code(409, "after_fix", "A run already"),
    "invalid_query": Code(400, "after_fix", "Not a valid query"),
    "preview_too_large": Code(422, "after_fix", "Too much for one picture"),
    "volume_unreachable": Code(503, "same_key", "The file can't be seen from here"),
    "unreadable_frame": Code(500, "ask_person", "A frame can't be read"),
    "unreadable_run": Code(500, "ask_person", "Unreadable document log"),
    "not_ready": Code(503, "same_key", "A submitted plan would not run now"),
    "queue_unreachable": Code(503, "same_key", "The queue server does not answer"),
    "hardware_unreachable": Code(503, "same_key", "The hardware does not answer"),
    "person_in_control": Code(423, "ask_person", "A person has the microscope"),
    "interlock_open": Code(409, "ask_person", "An interlock is open"),
    "halted": Code(409, "ask_person", "The microscope is halted"),
    "not_armable": Code(409, "after_fix", "The scope asks for no arming"),
    "released": Code(409, "ask_person", "The microscope is with another program"),
    "restart_pending": Code(409, "ask_person", "The hardware waits for a person"),
    "busy": Code(409, "same_key", "Something runs that must end first"),
    "refused_by_hardware": Code(409, "ask_person", "The hardware refused"),
    "unknown_sample": Code(404, "after_fix", "Unknown sample"),
    "unknown_name": Code(404, "after_fix", "Nothing has this name"),
    "nothing_to_approve": Code(404, "after_fix", "No approval is asked for this item"),
    "body_changed": Code(409, "after_fix", "The plan was edited meanwhile"),
    "decided_already": Code(409, "after_fix", "Somebody decided otherwise before"),
    "state_drift": Code(409, "after_fix", "The microscope has moved since"),
    "key_reused": Code(422, "after_fix", "Another request had this key"),
    "in_progress": Code(409, "same_key", "Being processed"),
    "pruned": Code(410, "after_fix", "Its result is not kept any more"),
    "unknown_operation": Code(404, "after_fix", "Unknown operation"),
    "parameters_refused": Code(422, "after_fix", "Parameters refused"),
    "unknown_plan": Code(422, "after_fix", "Unknown plan"),
    "no_room": Code(409, "after_fix", "No room for the frames"),
    "checker_unreachable": Code(503, "same_key", "Nobody to go through the plan"),
    "environment_closed": Code(503, "same_key", "No environment to run plans"),
    "queue_refused": Code(409, "ask_person", "The queue server refused"),
    "not_retryable": Code(409, "after_fix", "Nothing to try again"),
    "wrong_attempt": Code(409, "after_fix", "Not the last attempt"),
    "unknown_decision": Code(404, "after_fix", "Nothing of this number was asked"),
    "answer_refused": Code(422, "after_fix", "Not an answer that is allowed"),
    "decision_closed": Code(409, "after_fix", "Too late to decide"),
    "not_live": Code(404, "same_key", "Nothing is live"),
    "rate_limited": Code(429, "same_key", "Too many at once"),
    "outside_limits": Code(422, "after_fix", "Outside its limits"),
}


class Problem(Exception):
    """A request that is refused.

    Parameters
    ----------
    code
        One of `CODES`.
    detail
        Names the thing, the value, the limit and what to do.
    headers
        Sent along, for instance ``Allow``.
    fields
        Extension members of the body, for instance ``errors``.
    """

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.fields = fields

    @property
    def status(self) -> int:
        return CODES[self.code].status

    def body(self) -> bytes:
        return json.dumps(
            {
                "type": f"urn:queuescope:problem:{self.code}",
                "title": CODES[self.code].title,
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                **self.fields,
            }
        ).encode()
