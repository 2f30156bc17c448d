"""Where everything lies in a TIFF of the recorder: known before the first frame, so that frames can come in any order.

A BigTIFF: a header, the OME-XML, then blocks of frames. A block is a table of image file directories (IFDs), one a frame, and
the frames' pixels, each from a multiple of `PAGE` on, as direct writes need it. A recording whose length is planned has one
block, one that grows has as many as it needs. A short note of ours behind the header says how long a block is; everything else
is plain TIFF.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

PAGE = 4096
"""Direct writes need this alignment of address and length."""

_MAGIC = b"queuescope-tiff1"
_NOTE = struct.Struct("<16sQQQ")
_NOTE_AT = 16
_SOFTWARE = b"queuescope\0"
_SOFTWARE_AT = 56
_FIRST_IFD = 80
_TAG = struct.Struct("<HHQQ")
_ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 2, 3, 4, 5, 16
_OFFSETS, _DESCRIPTION, _PROGRAM = 273, 270, 305
_TAGS = 12
_IFD_BYTES = 8 + _TAGS * _TAG.size + 8
_OFFSETS_TAG = 5
"""Which of the twelve tags, in their order, says where the pixels are."""
XML_AT = PAGE


@cache
def _ifd() -> Any:
    """NumPy's type of a directory."""
    import numpy as np  # whoever only asks for names needs none

    tag = [("code", "<u2"), ("type", "<u2"), ("count", "<u8"), ("value", "<u8")]
    return np.dtype([("count", "<u8"), ("tags", tag, _TAGS), ("next", "<u8")])


class NotOurTiff(ValueError):
    """A file that the recorder didn't write."""


def pages(size: int) -> int:
    """A size in bytes, up to whole pages."""
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class TiffLayout:
    """Frames of ``frame_shape`` (height, width), unsigned, of ``itemsize`` bytes a pixel, ``block_frames`` a block, from the
    offset ``first_block`` on.
    """

    frame_shape: tuple[int, int]
    itemsize: int
    block_frames: int
    first_block: int
    pixel_um: float | None = None

    @property
    def frame_bytes(self) -> int:
        return self.frame_shape[0] * self.frame_shape[1] * self.itemsize

    @property
    def stride(self) -> int:
        """From one frame's pixels to the next one's."""
        return pages(self.frame_bytes)

    @property
    def table_bytes(self) -> int:
        return pages(self.block_frames * _IFD_BYTES)

    def block(self, number: int) -> int:
        """Offset of a block; of the file's end where there are ``number`` of them."""
        return self.first_block + number * (self.table_bytes + self.block_frames * self.stride)

    def frame(self, index: int) -> int:
        """Offset of a frame's pixels."""
        block, place = divmod(index, self.block_frames)
        return self.block(block) + self.table_bytes + place * self.stride

    def ifd(self, index: int) -> int:
        """Offset of a frame's directory."""
        block, place = divmod(index, self.block_frames)
        return _FIRST_IFD if index == 0 else self.block(block) + place * _IFD_BYTES

    def link(self, index: int) -> int:
        """Offset of the eight bytes that say where the directory after this frame's is; 0 there ends the file's images."""
        return self.ifd(index) + (_FIRST_IFD_BYTES if index == 0 else _IFD_BYTES) - 8

    def end(self, frames: int) -> int:
        """Offset behind the last of so many frames."""
        return self.frame(frames - 1) + self.stride if frames else self.first_block

    def head(self, frames: int, xml_bytes: int, linked: bool) -> bytes:
        """The file's first bytes, for so many frames; ``xml_bytes`` of OME-XML at `XML_AT`. ``linked``: all frames' directories
        follow each other from the beginning.
        """
        first = self.start(frames) + _NOTE.pack(_MAGIC, self.block_frames, self.first_block, frames)
        directory = self._first_ifd(xml_bytes, self.ifd(1) if linked and frames > 1 else 0)
        return first.ljust(_SOFTWARE_AT, b"\0") + _SOFTWARE.ljust(_FIRST_IFD - _SOFTWARE_AT, b"\0") + directory

    @staticmethod
    def start(frames: int) -> bytes:
        """The TIFF's own header, at offset 0. Without frames no image follows."""
        return struct.pack("<2sHHHQ", b"II", 43, 8, 0, _FIRST_IFD if frames else 0)

    @staticmethod
    def count(frames: int) -> tuple[int, bytes]:
        """Where our note says how many frames there are, and how it says so."""
        return _NOTE_AT + 32, struct.pack("<Q", frames)

    @staticmethod
    def description(offset: int, size: int) -> tuple[int, bytes]:
        """Where the first directory says where the OME-XML is, and how it says so. ``size`` counts the zero behind it."""
        return _FIRST_IFD + 8 + 5 * _TAG.size + 4, struct.pack("<QQ", size, offset)

    def table(self, number: int, linked: bool) -> bytes:
        """The directories of a block's frames."""
        import numpy as np

        table = np.zeros(self.block_frames, _ifd())
        tags = self._tags()
        table["count"] = len(tags)
        for place, tag in enumerate(tags):
            for name, value in zip(("code", "type", "count", "value"), tag, strict=True):
                table["tags"][name][:, place] = value
        first = number * self.block_frames
        table["tags"]["value"][:, _OFFSETS_TAG] = self.frame(first) + self.stride * np.arange(self.block_frames)
        if linked:
            table["next"][:-1] = self.block(number) + _IFD_BYTES * np.arange(1, self.block_frames)
        return table.tobytes().ljust(self.table_bytes, b"\0")

    def _tags(self) -> list[tuple[int, int, int, int]]:
        """Code, type, count, value of every directory, in the order of their codes."""
        height, width = self.frame_shape
        resolution, unit = 1 | 1 << 32, 1
        if self.pixel_um is not None and 1 <= (per_cm := round(1e7 / self.pixel_um)) < 2**32:
            resolution, unit = per_cm | 1000 << 32, 3
        return [
            (256, _LONG, 1, width),
            (257, _LONG, 1, height),
            (258, _SHORT, 1, 8 * self.itemsize),
            (259, _SHORT, 1, 1),  # uncompressed
            (262, _SHORT, 1, 1),  # black is zero
            (_OFFSETS, _LONG8, 1, self.frame(0)),
            (277, _SHORT, 1, 1),  # samples a pixel
            (278, _LONG, 1, height),  # rows a strip
            (279, _LONG8, 1, self.frame_bytes),
            (282, _RATIONAL, 1, resolution),
            (283, _RATIONAL, 1, resolution),
            (296, _SHORT, 1, unit),
        ]

    def _first_ifd(self, xml_bytes: int, following: int) -> bytes:
        own = [(_DESCRIPTION, _ASCII, xml_bytes, XML_AT), (_PROGRAM, _ASCII, len(_SOFTWARE), _SOFTWARE_AT)]
        tags = sorted([*self._tags(), *own])
        return struct.pack("<Q", len(tags)) + b"".join(_TAG.pack(*tag) for tag in tags) + struct.pack("<Q", following)

    @classmethod
    def read(cls, file: BinaryIO) -> tuple[TiffLayout, int, tuple[int, int]]:
        """The layout of a file, how many frames it says it has, and offset and size of its OME-XML.

        Raises
        ------
        NotOurTiff
            Where the recorder didn't write it, or not to the end of its beginning.
        """
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES or head[_NOTE_AT : _NOTE_AT + 16] != _MAGIC or head[:2] != b"II":
            raise NotOurTiff("its beginning is not that of a TIFF of this recorder")
        _, block_frames, first_block, frames = _NOTE.unpack_from(head, _NOTE_AT)
        tags = {}
        for place in range(14):
            code, _, count, value = _TAG.unpack_from(head, _FIRST_IFD + 8 + place * _TAG.size)
            tags[code] = (count, value)
        try:
            shape, bits = (int(tags[257][1]), int(tags[256][1])), int(tags[258][1])
            size, offset = tags[_DESCRIPTION]
        except KeyError as error:
            raise NotOurTiff(f"tag {error} is missing in its first directory") from None
        layout = cls(shape, bits // 8, int(block_frames), int(first_block))
        if (
            bits not in (8, 16, 32)
            or math.prod(shape) == 0
            or block_frames == 0
            or tags[_OFFSETS][1] != layout.frame(0)
        ):
            raise NotOurTiff(f"its first directory ({shape} of {bits} bit) is not the recorder's")
        return layout, int(frames), (int(offset), int(size))


_FIRST_IFD_BYTES = 8 + 14 * _TAG.size + 8
HEAD_BYTES = _FIRST_IFD + _FIRST_IFD_BYTES
