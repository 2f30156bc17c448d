"""Does it answer? One question to each service, in its own protocol, without its (heavy) client library."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from typing import TYPE_CHECKING, Any

from ..layout import Layout

if TYPE_CHECKING:
    from ..config import Scope


class NoAnswer(Exception):
    """The service did not answer, or not yet as it must; the text says what came instead."""


class Refused(NoAnswer):
    """The service answered that it will not."""


def valkey_address(scope: Scope, layout: Layout) -> str | tuple[str, int]:
    """The embedded server's unix socket, or host and port of an external one."""
    if scope.services.valkey == "embedded":
        return str(layout.valkey_socket)
    host, _, port = scope.services.valkey.rpartition(":")
    return (host, int(port))


def ping_valkey(address: str | tuple[str, int], password: str, timeout_s: float = 1.0) -> None:
    """AUTH and PING. `NoAnswer` unless the answer is PONG."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode("ascii"))
            answer = b""
            while answer.count(b"\r\n") < 2:
                received = connection.recv(256)
                if not received:
                    break
                answer += received
        except OSError as error:
            raise NoAnswer(f"valkey: {error}") from None
    if not answer.endswith(b"+PONG\r\n"):
        raise NoAnswer(f"valkey: {answer.decode('ascii', 'replace').strip()}")


def ask_courier(layout: Layout, timeout_s: float = 1.0) -> None:
    """It lives and delivers, or has nothing to deliver. `NoAnswer` otherwise."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(layout.courier_socket))
            answer = connection.recv(1)
        except OSError as error:
            raise NoAnswer(f"courier: {error}") from None
    if not answer:
        raise NoAnswer("courier: it answers, and its deliveries are stuck")


def connect_hardware(scope: Scope, layout: Layout, timeout_s: float = 1.0) -> None:
    """Somebody listens where the hardware process must. Whether it answers its calls is asked by ``GET /api/ready``."""
    place = urllib.parse.urlsplit(scope.services.hardware or "")
    address = (place.hostname, place.port) if scope.services.hardware else str(layout.hardware_socket)
    with socket.socket(socket.AF_INET if scope.services.hardware else socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
        except OSError as error:
            raise NoAnswer(f"hardware: nobody listens at {address}: {error.strerror or error}") from None


class HardwareAnswers:
    """The hardware process answers a call that touches no adapter."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        from ..hardware import HardwareError, pinger  # not for commands: they ask the REST server

        self._ping, self._error = pinger(scope, layout), HardwareError

    def __call__(self) -> None:
        try:
            self._ping(1.0)
        except self._error as error:
            raise NoAnswer(str(error)) from None


def zmq_addresses(scope: Scope, layout: Layout) -> dict[str, str]:
    """Addresses of queueserver's control and info sockets."""
    zmq_ = scope.services.zmq
    return {
        "control": zmq_.control or f"ipc://{layout.control_socket}",
        "info": zmq_.info or f"ipc://{layout.info_socket}",
    }


class QueueServer:
    """Requests to bluesky-queueserver over 0MQ (JSON-RPC), one socket each: a lost reply can't block the next request."""

    def __init__(self, control: str) -> None:
        self.control = control.replace("tcp://*:", "tcp://127.0.0.1:")

    def request(self, method: str, params: dict[str, Any] | None = None, timeout_s: float = 2.0) -> dict[str, Any]:
        """Ask and wait for the answer.

        Raises
        ------
        NoAnswer
            Where none came in time; `Refused` where the answer is ``success: false``.
        """
        import zmq  # few commands ask queueserver themselves

        opened: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
        with opened as connection:
            connection.setsockopt(zmq.LINGER, 0)
            connection.setsockopt(zmq.RECONNECT_IVL, 10)  # ms; the server may be about to listen
            connection.connect(self.control)
            connection.send_json({"method": method, "params": params or {}})
            if not connection.poll(round(timeout_s * 1000)):
                raise NoAnswer(f"queueserver: no answer to {method!r} within {timeout_s:g} s")
            answer: dict[str, Any] = json.loads(connection.recv())
        if not answer.get("success", True):
            raise Refused(f"queueserver refused {method!r}: {answer.get('msg')}")
        return answer

    def status(self, timeout_s: float = 1.0) -> dict[str, Any]:
        """queueserver's status: `manager_state`, `worker_environment_exists`, `queue_autostart_enabled`, …"""
        return self.request("status", timeout_s=timeout_s)


def http_request(url: str, key: str | None = None, body: Any = None, timeout_s: float = 5.0) -> tuple[int, Any]:
    """Status code and JSON body (None where it is none) of a request: GET, or POST where there is a ``body`` for it.

    Raises
    ------
    NoAnswer
        Where nobody answers.
    ValueError
        Where the body holds what JSON can't, such as NaN.
    """
    parts = urllib.parse.urlsplit(url)
    headers = {"Authorization": f"ApiKey {key}"} if key else {}
    content = None
    if body is not None:
        content = json.dumps(body, allow_nan=False).encode()
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        target = parts._replace(scheme="", netloc="").geturl()
        connection.request("GET" if body is None else "POST", target, content, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{url}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(answer)
    except ValueError:
        return response.status, None


def ready(url: str, key: str, timeout_s: float = 5.0) -> tuple[bool, list[str]]:
    """Would a submitted plan run? ``GET /api/ready``: 200, or 503 with the reasons."""
    try:
        status, body = http_request(f"{url}/api/ready", key, timeout_s=timeout_s)
    except NoAnswer as error:
        return False, [str(error)]
    if status == 200:
        return True, []
    return False, reasons(body) or [f"GET /api/ready gave {status}"]


def holds(url: str, key: str, timeout_s: float = 5.0) -> list[dict[str, Any]]:
    """What waits, and for whom (``GET /api/ready``); nothing where nobody answers."""
    try:
        _, body = http_request(f"{url}/api/ready", key, timeout_s=timeout_s)
    except NoAnswer:
        return []
    return list(body.get("holds") or []) if isinstance(body, dict) else []


def reasons(body: Any) -> list[str]:
    """The reasons in the 503 answer of ``GET /api/ready``, in people's words."""
    found = body.get("reasons") if isinstance(body, dict) else None
    lines = []
    for reason in found if isinstance(found, list) else []:
        lines.append(str(reason.get("detail") or reason.get("code")) if isinstance(reason, dict) else str(reason))
    if not lines and isinstance(body, dict) and body.get("detail"):
        lines.append(str(body["detail"]))
    return lines
