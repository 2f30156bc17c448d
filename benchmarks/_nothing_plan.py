"""A plan that does nothing, for what a plan costs before and after it does something.

``python -m queuescope.benchmarks._nothing_plan`` is the queue server with `nothing` among its templates;
``… --stack --scope SCOPE --data DIR`` starts a stack with that queue server and no catalog, and returns when plans would run.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

from bluesky import plan_stubs as bps
from pydantic import create_model

from .. import plans
from ..config import Scope
from ..layout import process_arguments
from ..plans import Estimate, PlanContext, Template
from ..plans._parameters import Parameters
from ..plans._template import PlanBody

MODULE = "queuescope.benchmarks._nothing_plan"


def nothing(scope: Scope) -> Template:
    model = create_model("nothing", __base__=Parameters)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do nothing: no run, no move, no light."""
        yield from bps.null()

    return Template("nothing", model, body, lambda _parameters, _scope: Estimate(seconds=0.0))


def queue_server() -> None:
    from ..startup.__main__ import main

    plans._TEMPLATES += (nothing,)  # before manager and worker fork
    main()


def stack() -> None:
    from ..scripts import _stack
    from ..scripts._up import start

    scope, layout = process_arguments(str(__doc__))
    made = _stack.parts

    def parts(*args: Any) -> list[Any]:
        found = []
        for part in made(*args):
            if part.name == "watchdog" and part.service is not None:
                command = (sys.executable, "-P", "-m", MODULE)
                part = dataclasses.replace(part, service=dataclasses.replace(part.service, command=command))
            found.append(part)
        return found

    _stack.parts = parts  # type: ignore[assignment]
    began = time.monotonic()
    start(scope, layout, lambda event, facts: None, wait_catalog=False, catalog=False)
    print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    if "--stack" in sys.argv:
        sys.argv.remove("--stack")
        stack()
    else:
        queue_server()
