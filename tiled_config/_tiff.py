"""Reading TIFFs of many frames, one frame a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from starlette.exceptions import HTTPException
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily
from tiled.utils import path_from_uri

from ..reading import Stack, VolumeError, open_volume
from ._present import present


class TiffVolumeAdapter(Adapter[ArrayStructure]):
    """A TIFF as an array of shape (frames announced, height, width), whose frames are read when they are asked for.

    Tiled's own adapter takes one file for one image, and fails for one that holds more.
    """

    structure_family = StructureFamily.array

    def __init__(self, stack: Stack, structure: ArrayStructure, **kwargs: Any) -> None:
        self._stack = stack
        super().__init__(structure, **kwargs)

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **kwargs: Any) -> TiffVolumeAdapter:
        """An adapter for a catalog entry.

        Raises
        ------
        HTTPException
            410 where the volume is not there, or isn't one.
        """
        recorded = Path(unquote(str(path_from_uri(data_source.assets[0].data_uri))))  # Tiled leaves a space as %20
        path = present(recorded)
        try:
            stack = open_volume(path).stack()
        except VolumeError as error:
            raise HTTPException(
                410, f"the volume {path.name} is neither where it was acquired nor in another storage root: {error}"
            ) from error
        return cls(stack, data_source.structure, metadata=node.metadata_, specs=node.specs)

    @property
    def dims(self) -> tuple[str, ...] | None:
        return self._structure.dims

    @property
    def _announced(self) -> NDSlice:
        return NDSlice(tuple(slice(0, size) for size in self.structure().shape))

    def read(self, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: B008 (as Tiled calls it)
        return self._stack[tuple(self._announced[slice])]

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: B008
        within = block.slice_from_chunks(self.structure().chunks)
        return self._stack[tuple(self._announced[within][slice or ...])]
