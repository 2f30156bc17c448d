"""``python -m queuescope.startup [--scope NAME|PATH] [--data DIR]``: queueserver's watchdog, manager and worker, with our guards.

Needs Valkey (``services.valkey``) and, to open the environment, the hardware process. 0MQ listens on the unix sockets
``control.sock`` and ``info.sock`` of the data directory's socket folder, unless the scope names other addresses.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml

from ..config import Scope
from ..layout import Layout, process_arguments
from ..lean import no_collection
from ._lean import lean

if TYPE_CHECKING:
    from ..plans import Template

LOG_LEVEL = logging.INFO


def zmq_addresses(scope: Scope, layout: Layout) -> tuple[str, str]:
    """queueserver's control and info addresses."""
    zmq = scope.services.zmq
    return zmq.control or f"ipc://{layout.control_socket}", zmq.info or f"ipc://{layout.info_socket}"


def worker_config(layout: Layout) -> dict[str, object]:
    """What queueserver's ``start_manager`` would hand to the worker."""
    ports = [f"ipython_{port}_port" for port in ("shell", "iopub", "stdin", "hb", "control")]
    ipython = ["ipython_dir", "ipython_matplotlib", "ipython_connection_file", "ipython_connection_dir", *ports]
    unused = ["startup_profile", "startup_dir", "startup_script_path", *ipython]
    return {
        **dict.fromkeys(unused),
        "startup_module_name": "queuescope.startup",
        "use_ipython_kernel": False,
        "ipython_kernel_ip": "localhost",
        "device_max_depth": 0,
        "ignore_invalid_plans": False,
        "permitted_re_metadata_keys": ["/"],
        "existing_plans_and_devices_path": str(layout.services / "existing_plans_and_devices.yaml"),
        "update_existing_plans_devices": "ENVIRONMENT_OPEN",
    }


def permissions(templates: Mapping[str, Template]) -> str:
    """queueserver's groups as YAML: ours, with every plan that is people's alone forbidden to agents."""
    text = Path(__file__).with_name("user_group_permissions.yaml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text)
    forbidden = groups["user_groups"]["agent"]["forbidden_plans"]
    more = {f":^{name}$" for name, template in templates.items() if template.people_only} - set(forbidden)
    if not more:
        return text
    forbidden += sorted(more)  # of other packages
    return str(yaml.safe_dump(groups))


def manager_config(scope: Scope, layout: Layout, templates: Mapping[str, Template]) -> dict[str, object]:
    control, _ = zmq_addresses(scope, layout)
    permissions_path = layout.services / "user_group_permissions.yaml"
    permissions_path.write_text(permissions(templates), encoding="utf-8")
    return {
        "existing_plans_and_devices_path": str(layout.services / "existing_plans_and_devices.yaml"),
        "user_group_permissions_path": str(permissions_path),
        "user_group_permissions_reload": "ON_STARTUP",
        "zmq_addr": control,
        "zmq_private_key": None,
        "zmq_encoding": "json",
        "redis_addr": scope.services.valkey,
        "redis_name_prefix": "queuescope",
        "use_ipython_kernel": False,
        "lock_key_emergency": layout.key("lock"),
    }


def alone(layout: Layout, patience_s: float = 5.0) -> IO[str]:
    """This data directory's queue server from now on, until the file is closed here, in the manager and in the worker.

    A second manager on one queue store takes the first one's running plan for lost (decision 0081).

    Raises
    ------
    SystemExit
        Where another one is still there after ``patience_s``; one that was killed is still ending.
    """
    path = layout.services / "queue-server.lock"
    file, give_up = path.open("a"), time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > give_up:
                sys.exit(
                    f"a queue server runs on {layout.data} already ({path} is locked): stop it, or name another --data"
                )
            time.sleep(0.05)


def main() -> None:
    os.umask(0o077)  # the 0MQ sockets' mode follows it
    scope, layout = process_arguments(__doc__ or "")
    layout.create()
    lock = alone(layout)
    multiprocessing.set_start_method("fork")  # the worker inherits the imports, and with them its quick start
    with no_collection():
        with lean():
            from bluesky_queueserver.manager.logging_setup import setup_loggers
            from bluesky_queueserver.manager.output_streaming import (
                PublishZMQStreamOutput,
                setup_console_output_redirection,
            )
            from bluesky_queueserver.manager.start_manager import AtTerm

            from ..devices import AdditionError
            from ..plans import templates
            from ._checking import Checker
            from ._queueserver import ScopeWatchdog, die_with_parent, wait_for_valkey
        try:
            known = templates(scope)
        except AdditionError as error:  # manager and worker would fail one after the other, again and again
            sys.exit(f"queuescope.startup: {error}")
    checker = Checker(scope, layout, known, die_with_parent)
    checker.start()
    wait_for_valkey()
    _, info = zmq_addresses(scope, layout)

    messages: multiprocessing.Queue[object] = multiprocessing.Queue()
    setup_console_output_redirection(messages)
    logging.basicConfig(level=logging.WARNING)
    setup_loggers(log_level=LOG_LEVEL)
    publisher = PublishZMQStreamOutput(
        msg_queue=messages, console_output_on=True, zmq_publish_on=True, zmq_publish_addr=info, encoding="json"
    )
    publisher.start()
    watchdog = ScopeWatchdog(
        config_worker=worker_config(layout),
        config_manager=manager_config(scope, layout, known),
        msg_queue=messages,
        log_level=LOG_LEVEL,
    )

    at_term = AtTerm()
    at_term.replace_sigterm_handler()
    at_term.register(watchdog.end_children)
    at_term.register(checker.end)
    atexit.register(watchdog.end_children)
    try:
        watchdog.run()
    except KeyboardInterrupt:
        pass
    finally:
        checker.end()
        publisher.stop()
        lock.close()


if __name__ == "__main__":
    main()
