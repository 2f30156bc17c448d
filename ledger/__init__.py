"""The record of operations: what was started for whom, what became of it, which runs it made."""

from __future__ import annotations

from ._ledger import Execution, Ledger

__all__ = ["Execution", "Ledger"]
