"""Reading acquired volumes without ever writing to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import zarr
from starlette.exceptions import HTTPException
from tiled.adapters.zarr import ZarrAdapter, ZarrArrayAdapter
from tiled.structures.data_source import Management
from tiled.utils import path_from_uri

from ._present import present


class VolumeAdapter(ZarrAdapter):
    """Tiled's Zarr adapter, read-only for files that Tiled did not write itself.

    The stock adapter opens with mode ``a``: reading a volume that has been moved away would create an empty Zarr group
    in its place.
    """

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **kwargs: Any) -> Any:
        """An adapter for a catalog entry of shape (frames announced, height, width).

        Raises
        ------
        HTTPException
            410 where the volume is not there.
        """
        if data_source.management != Management.external:
            return super().from_catalog(data_source, node, **kwargs)
        recorded = Path(unquote(str(path_from_uri(data_source.assets[0].data_uri))))  # Tiled leaves a space as %20
        path = present(recorded.parent) / recorded.name
        try:
            array = zarr.open_array(path, mode="r")
        except FileNotFoundError as error:
            raise HTTPException(
                410, f"the volume {path.parent.name} is neither where it was acquired nor in another storage root"
            ) from error
        return ZarrArrayAdapter(
            array, structure=data_source.structure, metadata=node.metadata_, specs=node.specs, **kwargs
        )
