"""Calls of the surface as bytes: arguments, results and errors, typed by the surface's own annotations.

Both modes check arguments here, so that a wrong type is the same `ArgumentError` on the local object and on the proxy.
Scalars are strict (``True`` and ``"1"`` are no numbers, NumPy scalars are), lists pass for tuples.
On the wire a call is msgpack: arguments by name; a result ``{"ok": …}`` or ``{"error": {type, message, fields}}``;
an array is ``{dtype, shape, bytes}``.
"""

from __future__ import annotations

import inspect
import logging
import traceback
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgpack
from pydantic import Strict, TypeAdapter, ValidationError

from ._errors import ERRORS, ArgumentError, HardwareError, NotAllowedError
from ._surface import SURFACE, Hardware, Image

log = logging.getLogger("queuescope.hardware")

GOODBYE = "goodbye"
"""Not a call of the surface: a client says that it leaves in good order."""


def _strict_scalars(hint: Any) -> Any:
    if hint in (float, int, str, bool):
        return Annotated[hint, Strict()]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_strict_scalars(arg) for arg in args)]  # noqa: UP007 (built at run time)
    if origin in (tuple, dict, list):
        return origin[tuple(arg if arg is ... else _strict_scalars(arg) for arg in args)]
    return hint


@dataclass(frozen=True)
class Call:
    """One call of the surface with the types of its arguments and of its result."""

    name: str
    signature: inspect.Signature
    arguments: Mapping[str, TypeAdapter[Any]]
    result: TypeAdapter[Any] | None
    """None: the result is an array."""

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Arguments by name, defaults filled in, checked and converted.

        Raises
        ------
        ArgumentError
            Where one is missing, unknown, or of the wrong type.
        """
        given: Mapping[str, Any]
        # all by position or all by name, as our own sides do: `signature.bind` costs more than the rest
        if not kwargs and len(args) == len(self.arguments):
            given = dict(zip(self.arguments, args, strict=True))
        elif not args and kwargs.keys() == self.arguments.keys():
            given = kwargs
        else:
            try:
                bound = self.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise ArgumentError(f"{self.name}: {error}", thing=self.name) from None
            bound.apply_defaults()
            given = bound.arguments
        return {name: self._checked(name, value) for name, value in given.items()}

    def _checked(self, name: str, value: Any) -> Any:
        try:
            return self.arguments[name].validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join([self.name, name, *(str(part) for part in first["loc"])])
            raise ArgumentError(
                f"{where}: {first['msg']}, not {first['input']!r} ({type(first['input']).__name__})",
                thing=f"{self.name}.{name}",
                value=repr(first["input"]),
            ) from None

    def pack_arguments(self, values: Mapping[str, Any]) -> bytes:
        """Checked arguments as bytes."""
        return msgpack.packb({n: self.arguments[n].dump_python(v, mode="json") for n, v in values.items()})

    def unpack_arguments(self, payload: bytes | bytearray) -> dict[str, Any]:
        """Arguments from bytes that anybody may have sent.

        Raises
        ------
        ArgumentError
            Where the bytes are not a msgpack map of this call's arguments.
        """
        try:
            values = msgpack.unpackb(payload)
        except (ValueError, msgpack.UnpackException) as error:
            raise ArgumentError(f"{self.name}: the payload is not msgpack ({error})", thing=self.name) from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ArgumentError(f"{self.name}: the payload is not a map of arguments", thing=self.name)
        return self.bind(**values)

    def pack_result(self, value: Any) -> bytes:
        if self.result is None:
            import numpy as np  # the supervisor asks for no arrays, and lives without

            array = np.ascontiguousarray(value)
            packed: Any = {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": array.data.cast("B")}
        else:
            packed = self.result.dump_python(value, mode="json")
        return msgpack.packb({"ok": packed})

    def unpack_result(self, payload: bytes) -> Any:
        """The result, or the error that the other side raised, raised here."""
        reply = msgpack.unpackb(payload)
        if "error" in reply:
            raise rebuilt(reply["error"])
        value = reply["ok"]
        if self.result is None:
            import numpy as np

            return np.frombuffer(bytearray(value["bytes"]), dtype=value["dtype"]).reshape(value["shape"])
        return self.result.validate_python(value)


@cache
def call_named(name: str) -> Call:
    """The call of this name.

    Raises
    ------
    NotAllowedError
        For every name that is not on the allow-list.
    """
    if not isinstance(name, str) or name not in SURFACE:
        raise NotAllowedError(f"{name!r} is not a call of the hardware; allowed are: {', '.join(SURFACE)}", thing=name)
    method = getattr(Hardware, name)
    hints = get_type_hints(method)
    signature = inspect.signature(method)
    signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    arguments = {n: TypeAdapter(_strict_scalars(hints[n])) for n in signature.parameters}
    returned = hints["return"]
    return Call(name, signature, arguments, None if returned is Image else TypeAdapter(returned))


def packed_error(error: HardwareError) -> bytes:
    """An error as bytes; fields that msgpack can't carry become their text."""
    described = {"type": type(error).__name__, "message": str(error), "fields": error.fields}
    return msgpack.packb({"error": described}, default=str)


def rebuilt(described: Mapping[str, Any]) -> HardwareError:
    """The error that crossed the boundary."""
    return ERRORS.get(described["type"], HardwareError)(described["message"], **described["fields"])


def run(target: Hardware, call: Call, values: Mapping[str, Any]) -> Any:
    """Carry a call out. An exception that is no `HardwareError` is a fault of ours: it is logged and named, never lost."""
    try:
        return getattr(target, call.name)(**values)
    except HardwareError as error:
        raise getattr(target, "explain", lambda _, same: same)(call.name, error) from error.__cause__
    except Exception as error:
        log.error("%s failed unexpectedly\n%s", call.name, traceback.format_exc())
        kind = type(error).__name__
        raise HardwareError(
            f"{call.name}: {kind}: {error} (a fault in queuescope.hardware: its log has the traceback)",
            thing=call.name,
            type=kind,
        ) from error
