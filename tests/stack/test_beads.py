"""The bundled sample of beads through a real queue, as a lab's users start plans; what comes out against what is true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.http import REManagerAPI as HttpAPI
from typer.testing import CliRunner

from queuescope.plans import templates
from queuescope.scripts.cli import complete_app

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "try-focus.md"
FOCUS_UM, SLOPE_UM_PER_DEG, SHIFT_PX = 12.3, 87.5, (7.4, -4.6)
"""scopes/demo-beads/mm.cfg."""


@pytest.fixture(scope="module")
def beads(make_stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    found = make_stack(tmp_path_factory.mktemp("beads") / "data", "demo-beads")
    started = found.up("--scope", "demo-beads", "--no-catalog", "--json")
    assert started.returncode == 0, started.stderr
    yield found
    found.down()


def told(stack: Any, *words: str, code: int = 0) -> dict[str, Any]:
    """What ``queuescope run …`` prints as JSON; ``code``: how it must end."""
    done = CliRunner().invoke(complete_app(), ["run", *words, "--json", "--data", str(stack.data)])
    assert done.exit_code == code, done.output
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def client(beads: Any) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"ApiKey {beads.key('operator')}"}
    with httpx.Client(base_url=beads.http, headers=headers, timeout=90, trust_env=False) as found:
        yield found


def ended(client: httpx.Client, key: str) -> dict[str, Any]:
    """What the operation of this key came to."""
    operation = client.get(f"/api/ops/{key}", params={"wait": 50}).json()
    assert operation["state"] == "succeeded", operation
    return dict(operation["result"])


def test_its_plans_are_offered(beads: Any, client: httpx.Client) -> None:
    """As `queuescope plans` shows them."""
    assert set(client.get("/api/plans/allowed").json()["plans_allowed"]) == set(templates(beads.scope))


@pytest.mark.parametrize("name", ["focus_sweep", "calibrate_piezo_galvo", "calibrate_stage_camera", "register_views"])
def test_a_check_says_that_it_may_run(beads: Any, name: str) -> None:
    checked = told(beads, name, "--check")
    assert (checked["ok"], checked["problems"]) == (True, [])
    assert checked["frames"]


def test_the_focus_is_found_from_the_terminal(beads: Any) -> None:
    """Without a parameter: z stands near the beads when the microscope has come up."""
    found = told(beads, "focus_sweep")["result"]
    assert found["before_um"] == 10.0
    assert found["focus_um"] == pytest.approx(FOCUS_UM, abs=0.25)


def test_the_sheet_is_calibrated_over_rest(client: httpx.Client) -> None:
    body = {"plan": "calibrate_piezo_galvo", "kwargs": {"channels": [{"name": "white"}]}}
    reply = client.post("/api/ops", json=body, headers={"Idempotency-Key": "beads.sheet-1"})
    assert reply.status_code == 201, reply.text
    assert ended(client, "beads.sheet-1")["slope_um_per_deg"] == pytest.approx(SLOPE_UM_PER_DEG, rel=0.02)


def test_the_views_are_registered_by_the_stock_client(beads: Any, client: httpx.Client) -> None:
    """bluesky-queueserver-api over HTTP, with an agent's key."""
    api = HttpAPI(http_server_uri=beads.http)
    api.set_authorization_key(api_key=beads.key("agent"))
    plan = BPlan("register_views", **templates(beads.scope)["register_views"].example)
    plan.meta = {"op_key": "beads.views-1"}
    try:
        api.item_add(plan)
    finally:
        api.close()
    found = ended(client, "beads.views-1")
    assert (found["x_px"], found["y_px"]) == pytest.approx(SHIFT_PX, abs=0.2)


def test_the_how_to_page_works_as_written(beads: Any) -> None:
    """Its commands in their order; a sweep that can't find anything is refused as the page says."""
    _, *sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    refused, uid = [], ""
    for section in sections:
        for line in re.findall(r"^queuescope run ([^#\n]+)", section, flags=re.MULTILINE):
            words = line.replace("UID", uid).split()
            fails = words == ["focus_sweep"] and section.startswith("What a refusal")
            operation = told(beads, *words, code=int(fails))
            uid = operation["run_uids"][0]
            if fails:
                refused.append((operation["error"]["code"], operation["error"]["detail"]))
    assert [code for code, _ in refused] == ["fit_refused"] * 2
    assert re.search("flat|edge", refused[0][1])
    assert "empty field" in refused[1][1]
