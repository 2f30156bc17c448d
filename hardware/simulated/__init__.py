"""Python devices of the demo diSPIM: an ASI Tiger controller with its SPIM state machine, two light-sheet cameras, an incubator;
and a camera on a sample of beads.

A Micro-Manager configuration names them in `#py` lines, which Micro-Manager's own software takes for comments::

    #py pyDevice,TigerCommHub,queuescope.hardware.simulated,TigerCommHub
"""

from ._camera import LightSheetCamera
from ._cards import PiezoStage, PLogic, Scanner, TigerCommHub
from ._incubator import Incubator
from ._process import RemoteFirmware, attach
from ._sample import SampleCamera
from ._stamp import Stamp, decode

__all__ = [
    "Incubator",
    "LightSheetCamera",
    "PLogic",
    "PiezoStage",
    "RemoteFirmware",
    "SampleCamera",
    "Scanner",
    "Stamp",
    "TigerCommHub",
    "attach",
    "decode",
]
