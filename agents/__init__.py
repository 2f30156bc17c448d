"""What runs in the client: an agent's script, a notebook. `catalog` opens the runs."""

from ._catalog import CatalogNotFoundError, catalog

__all__ = ["CatalogNotFoundError", "catalog"]
