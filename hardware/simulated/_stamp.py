"""What an emulated camera writes into the first pixels of each frame: where everything was when it was exposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

MAGIC = 0x51A5
WORDS = 16
"""Pixels of row 0 that a stamp takes. Narrower frames have none."""


@dataclass(frozen=True)
class Stamp:
    """The truth about a frame. Positions to 1 nm and 1 µdeg."""

    trigger: Literal["internal", "external"]
    side: str
    """``A`` or ``B``."""
    slice: int
    repeat: int
    number: int
    """Triggers of this side since the run began, missed ones too; frames since the camera was loaded for an internal trigger."""
    piezo_um: float
    galvo_x_deg: float
    galvo_y_deg: float
    lines: frozenset[int]
    """Laser outputs of the logic card that were high at any time during the exposure."""


def encode(frame: np.ndarray, stamp: Stamp) -> None:
    """Write a stamp into a frame (height, width), uint16 or uint8 (which holds none)."""
    if frame.dtype != np.uint16 or frame.shape[1] < WORDS:
        return
    lines = sum(1 << output for output in stamp.lines)
    head = [
        MAGIC,
        stamp.trigger == "external",
        ord(stamp.side),
        stamp.slice,
        stamp.repeat,
        stamp.number,
        stamp.number >> 16,
    ]
    numbers = (stamp.piezo_um * 1e3, stamp.galvo_x_deg * 1e6, stamp.galvo_y_deg * 1e6)
    for number in numbers:
        whole = round(number) & 0xFFFFFFFF
        head += [whole & 0xFFFF, whole >> 16]
    head += [lines, 0, 0]
    frame[0, :WORDS] = [int(word) & 0xFFFF for word in head]


def decode(frame: np.ndarray) -> Stamp | None:
    """The stamp of a frame (height, width); None where it has none."""
    if frame.dtype != np.uint16 or frame.shape[1] < WORDS or frame[0, 0] != MAGIC:
        return None
    word = [int(one) for one in frame[0, :WORDS]]

    def signed(at: int) -> int:
        whole = word[at] | word[at + 1] << 16
        return whole - (1 << 32) if whole >= 1 << 31 else whole

    return Stamp(
        trigger="external" if word[1] else "internal",
        side=chr(word[2]),
        slice=word[3],
        repeat=word[4],
        number=word[5] | word[6] << 16,
        piezo_um=signed(7) / 1e3,
        galvo_x_deg=signed(9) / 1e6,
        galvo_y_deg=signed(11) / 1e6,
        lines=frozenset(output for output in range(16) if word[13] >> output & 1),
    )
