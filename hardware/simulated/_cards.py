"""The cards of the emulated Tiger controller as Micro-Manager devices, with the property names of the ASITiger adapter.

As with that adapter, a property is answered from what was last read or written, ``SPIMState`` included, unless the card's
``RefreshPropertyValues`` is ``Yes``; and the two scanners of a card share its SPIM properties. No card tells its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pymmcore_plus import DeviceType
from pymmcore_plus.experimental.unicore import HubDevice, ShutterDevice, StageDevice
from pymmcore_plus.experimental.unicore.devices._device_base import Device

from ._firmware import Firmware
from ._process import RemoteFirmware, attach_or_start
from ._tiger import DEFAULTS, MIRROR_OF, OUTPUTS, PARKED, RANGE

REFRESH = "RefreshPropertyValues"
STATES = ("Idle", "Armed", "Running")
YES_NO = ("No", "Yes")
PATTERNS = ("0 - Ramp", "1 - Triangle", "2 - Square", "3 - Sine")
MODES = ("0 - Disabled", "1 - Enabled", "2 - Armed for TTL trigger", "3 - Enabled with axes synced")
JOYSTICK = ("0 - none", "2 - joystick X", "3 - joystick Y", "22 - right wheel", "23 - left wheel")
PRESETS = ("no preset", "2 - cell 1 low", "3 - cell 1 high", "10 - cell 8 low", "11 - cell 8 high", "14 - diSPIM TTL")
_CHOICES = {"SPIMFirstSide": ("A", "B")} | {name: YES_NO for name, value in DEFAULTS.items() if value == "No"}


class TigerCommHub(HubDevice):
    """The controller's port. ``SerialPort`` (before initialisation) says where the controller is: ``in-process``, gone with
    this process; or ``process``, one of its own that runs on when this one dies, and is found again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.controller: Firmware | RemoteFirmware | None = None
        self.cards: list[Card] = []
        self._folder: Path | None = None
        self.register_property(
            "SerialPort", default_value="in-process", allowed_values=("in-process", "process"), is_pre_init=True
        )
        self.register_property("FirmwareVersion", default_value=3.5, is_read_only=True)
        self.register_property(
            "TimeScale",
            getter=TigerCommHub._get_scale,
            setter=TigerCommHub._set_scale,
            limits=(0.0, 100.0),
            property_type=float,
        )

    def placed(self, folder: Path) -> None:
        """Where the files of this microscope's services lie."""
        self._folder = folder

    @property
    def firmware(self) -> Firmware | RemoteFirmware:
        if self.controller is None:
            raise RuntimeError("the controller's port is not open")
        return self.controller

    def initialize(self) -> None:
        if self.get_property_value("SerialPort") == "process":
            if self._folder is None:
                raise RuntimeError("no folder for the files of the controller's process was given")
            self.controller = attach_or_start(self._folder)
        else:
            self.controller = Firmware()

    def shutdown(self) -> None:
        """Close the port. A controller in a process of its own runs on."""
        controller, self.controller = self.controller, None
        if isinstance(controller, Firmware):
            controller.faults()
            controller.write("33.SPIMState", "Idle")
        elif controller is not None:
            controller.close()

    def get_installed_peripherals(self) -> Sequence[tuple[str, str]]:
        return [(c.__name__, (c.__doc__ or "").splitlines()[0]) for c in (Scanner, PiezoStage, PLogic)]

    def _get_scale(self) -> float:
        return self.firmware.time_scale()

    def _set_scale(self, scale: float) -> None:
        self.firmware.time_scale(scale)


class _Registers(Protocol):
    """What `Card` needs of the UniMMCore device that it is mixed into."""

    def register_property(self, name: str, **options: Any) -> None: ...


class Card:
    """A card's part of a device: its hub, and properties that live on the controller."""

    address = ""

    def joined(self, hub: Device) -> None:
        """The configuration says ``Parent,…``: this hub."""
        if not isinstance(hub, TigerCommHub):
            raise RuntimeError(f"the hub of a Tiger card must be a TigerCommHub, not a {type(hub).__name__}")
        self._hub = hub
        hub.cards.append(self)

    @property
    def firmware(self) -> Firmware | RemoteFirmware:
        hub = getattr(self, "_hub", None)
        if hub is None:
            raise RuntimeError("it has no hub: add `#py Parent,LABEL,TigerCommHub` to the configuration")
        return hub.firmware

    def axes(self) -> str:
        """The letters in the label ``KIND:LETTERS:ADDRESS``; remembers the address."""
        label = self.get_label()  # type: ignore[attr-defined]
        try:
            _, letters, self.address = label.split(":")
        except ValueError:
            raise RuntimeError(f"the label {label!r} of a Tiger card must be KIND:AXES:ADDRESS") from None
        return str(letters)

    def refreshed(self: Any) -> None:
        """The property that decides whether others are asked of the controller."""
        self.cache: dict[str, Any] = {}
        self.register_property(REFRESH, default_value="No", allowed_values=YES_NO)

    def remote(self: Any, name: str, key: str, choices: Sequence[str] | None = None, **options: Any) -> None:
        """A property that is the controller's setting ``key``."""

        def get(card: Any) -> Any:
            if name not in card.cache or card.get_property_value(REFRESH) == "Yes":
                card.cache[name] = card.firmware.read(key)
            return card.cache[name]

        def put(card: Any, value: Any) -> None:
            card.firmware.write(key, value)
            for other in card._hub.cards:
                if other.address == card.address and other.has_property(name) and key.startswith(card.address):
                    other.cache[name] = value
            card.cache[name] = value

        kind = type(self.firmware.read(key))
        self.register_property(name, getter=get, setter=put, allowed_values=choices, property_type=kind, **options)

    def local(self: Any, name: str, value: float | str, choices: Sequence[str] | None = None) -> None:
        """A property that changes nothing in the emulation."""
        self.register_property(name, default_value=value, allowed_values=choices)


class Scanner(Card, Device):
    """ASI 2-axis Scanner"""

    _TYPE = DeviceType.GalvoDevice

    def __init__(self) -> None:
        super().__init__()
        self._beam = False
        self._kept = (0.0, 0.0)
        self.refreshed()

    def initialize(self) -> None:
        letters = self.axes()
        side = next(side for side, axes in MIRROR_OF.items() if "".join(axes) == letters)
        self._x, self._y = MIRROR_OF[side]
        for letter, axis in (("X", self._x), ("Y", self._y)):
            self.remote(f"SingleAxis{letter}Amplitude(deg)", f"{axis}.amplitude")
            self.remote(f"SingleAxis{letter}Offset(deg)", f"{axis}.offset")
            self.local(f"SingleAxis{letter}Period(ms)", 10)
            self.local(f"SingleAxis{letter}Mode", MODES[0], MODES)
            self.local(f"SingleAxis{letter}Pattern", PATTERNS[0], PATTERNS)
            self.local(f"MinDeflection{letter}(deg)", -RANGE[axis])
            self.local(f"MaxDeflection{letter}(deg)", RANGE[axis])
            self.local(f"FilterFreq{letter}(kHz)", 0.8)
            self.local(f"JoystickInput{letter}", JOYSTICK[0], JOYSTICK)
        self.remote("SPIMState", "33.SPIMState", STATES)
        for name in DEFAULTS:
            limits = {"limits": (1, 2)} if name == "SPIMNumSides" else {}
            self.remote(name, f"33.{name}", _CHOICES.get(name), **limits)
        self.local("LaserOutputMode", "shutter + side", ("individual shutters", "shutter + side", "side + side"))
        here = self._mirror()
        self._beam = here != (PARKED, PARKED)
        self.register_property(
            "BeamEnabled", getter=Scanner._get_beam, setter=Scanner._set_beam, allowed_values=YES_NO, property_type=str
        )
        self._set_beam("No")  # the adapter always starts with the beam off

    def _mirror(self) -> tuple[float, float]:
        return self.firmware.position(self._x), self.firmware.position(self._y)

    def _go(self, x: float, y: float) -> None:
        self.firmware.move(self._x, x)
        self.firmware.move(self._y, y)

    def get_galvo_position(self) -> tuple[float, float]:
        """Where the mirror is, in degrees."""
        return self._mirror()

    def set_galvo_position(self, x: float, y: float) -> None:
        """Go there; with the beam off, when it is switched on again."""
        if self._beam:
            self._go(x, y)
        else:
            self._kept = (x, y)

    def set_illumination(self, on: bool) -> None:
        """What ``BeamEnabled`` does."""
        self._set_beam("Yes" if on else "No")

    def _get_beam(self) -> str:
        return "Yes" if self._beam else "No"

    def _set_beam(self, value: str) -> None:
        """A mirror can't switch a beam off: it is parked where the beam is blocked, and comes back."""
        on = value == "Yes"
        if on and not self._beam:
            self._go(*self._kept)
        elif not on and self._beam:
            self._kept = self._mirror()
            self._go(PARKED, PARKED)
        self._beam = on


class PiezoStage(Card, StageDevice):
    """ASI Piezo Stage"""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed()

    def initialize(self) -> None:
        self._axis = self.axes()
        self.remote("SingleAxisAmplitude(um)", f"{self._axis}.amplitude")
        self.remote("SingleAxisOffset(um)", f"{self._axis}.offset")
        self.remote("SPIMNumSlices", f"{self.address}.SPIMNumSlices")
        self.remote("SPIMState", f"{self.address}.SPIMState", STATES[:2])
        self.register_property(
            "HomePosition(mm)", getter=PiezoStage._get_home, setter=PiezoStage._set_home, property_type=float
        )
        self.local("SingleAxisPeriod(ms)", 10)
        self.local("SingleAxisMode", MODES[0], MODES)
        self.local("SingleAxisPattern", PATTERNS[0], PATTERNS)
        self.local("LowerLim(mm)", -RANGE[self._axis] / 1000)
        self.local("UpperLim(mm)", RANGE[self._axis] / 1000)
        self.local("JoystickInput", JOYSTICK[0], JOYSTICK)
        self.local("PiezoMode", "0 - internal input closed-loop", ("0 - internal input closed-loop",))

    def _get_home(self) -> float:
        return float(self.firmware.read(f"{self._axis}.home")) / 1000

    def _set_home(self, value: float) -> None:
        self.firmware.write(f"{self._axis}.home", 1000 * value)

    def get_position_um(self) -> float:
        return self.firmware.position(self._axis)

    def set_position_um(self, val: float) -> None:
        self.firmware.move(self._axis, val)

    def home(self) -> None:
        self.firmware.move(self._axis, 1000 * self._get_home())

    def stop(self) -> None:
        """It has arrived already."""

    def set_origin(self) -> None:
        raise RuntimeError("the emulated piezo has no origin of its own")


class PLogic(Card, ShutterDevice):
    """ASI Programmable Logic

    As a diSPIM shutter: laser outputs 5 to 8, of which ``OutputChannel`` chooses, are high while the state machine's laser
    trigger is, or while this shutter is open. Outputs 1 and 2 trigger the cameras of sides A and B.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refreshed()
        modes = ("None", "diSPIM Shutter", "Four-channel shutter")
        self.register_property("PLogicMode", default_value=modes[0], allowed_values=modes, is_pre_init=True)

    def initialize(self) -> None:
        self.axes()
        if self.get_property_value("PLogicMode") != "None":
            self.remote("OutputChannel", f"{self.address}.OutputChannel", tuple(OUTPUTS))
            self.set_property_value("OutputChannel", next(iter(OUTPUTS)))
            self.set_open(False)  # as the adapter does
        self.local("SetCardPreset", PRESETS[0], PRESETS)
        self.local("TriggerSource", "1 - Micro-mirror card", ("0 - internal 4kHz", "1 - Micro-mirror card"))
        self.register_property("FrontpanelOutputState", getter=PLogic._lines, is_read_only=True, property_type=int)

    def _lines(self) -> int:
        return int(self.firmware.read(f"{self.address}.lines"))

    def get_open(self) -> bool:
        return self.firmware.shutter()

    def set_open(self, open: bool) -> None:
        if self.has_property("OutputChannel"):
            self.firmware.shutter(open)
