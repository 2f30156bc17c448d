"""Measurements: one module each, with ``measure(quick, tell) -> Result``. Run as ``queuescope bench NAME``."""

from ._result import Result, Row, names, result_of, row

__all__ = ["Result", "Row", "names", "result_of", "row"]
