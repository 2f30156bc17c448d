"""What a dataset is on disk, in each format: its names, its OME metadata, and where in a TIFF each frame's bytes lie.

The recorder writes by it, readers and exports read by it. Importing this imports nothing heavy: every process and every
command reads the names.
"""

from ._facts import CameraFacts, ImageFacts, LightFacts, ObjectiveFacts
from ._names import FORMATS, MIMETYPES, SUFFIXES, Format, array_uri, format_of, frame_list, volume_of
from ._ngff import ngff, of_ngff
from ._tiff import PAGE, XML_AT, NotOurTiff, TiffLayout, pages
from ._xml import UnknownType, check, counted, of_frames, ome_xml, parsed

__all__ = [
    "FORMATS",
    "MIMETYPES",
    "PAGE",
    "SUFFIXES",
    "XML_AT",
    "CameraFacts",
    "Format",
    "ImageFacts",
    "LightFacts",
    "NotOurTiff",
    "ObjectiveFacts",
    "TiffLayout",
    "UnknownType",
    "array_uri",
    "check",
    "counted",
    "format_of",
    "frame_list",
    "ngff",
    "of_frames",
    "of_ngff",
    "ome_xml",
    "pages",
    "parsed",
    "volume_of",
]
