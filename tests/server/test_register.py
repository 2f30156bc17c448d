"""`POST /api/runs/register` on the running server."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr


def test_an_admin_registers_a_file_and_everybody_reads_the_run(guarded: Any) -> None:
    """R3.3 over REST: 201, then 200 for the same request; only an admin may."""
    server, _ = guarded
    pixels = np.arange(2 * 8 * 10, dtype="<u2").reshape(2, 8, 10)
    folder = server.layout.data / "results" / "labels.ome.zarr" / "0"
    zarr.create_array(folder, data=pixels, chunks=(1, 8, 10), compressors=None)
    body = {"uri": "data://DATA/results/labels.ome.zarr", "dataset": "labels", "lineage": {"origin": "a program"}}
    assert server["operator"].post("/api/runs/register", json=body).status_code == 403
    made = server["admin"].post("/api/runs/register", json=body)
    assert made.status_code == 201, made.text
    run = made.json()
    assert (run["status"], run["datasets"][0]["uri"], run["datasets"][0]["shape"]) == (
        "succeeded",
        body["uri"],
        [2, 8, 10],
    )
    again = server["admin"].post("/api/runs/register", json=body)
    assert (again.status_code, again.json()) == (200, run)
    assert server["observer"].get(f"/api/runs/{run['uid']}").json() == run
    assert server["observer"].get(f"/api/runs/{run['uid']}/image.png").headers["preview-frames-written"] == "2"
    for changed, status, code in (
        ({"uri": "data://DATA/../labels.ome.zarr"}, 422, "outside_roots"),
        ({"uri": "data://DATA/results/nothing"}, 422, "unsupported_file"),
        ({"uri": "data://DATA/keys"}, 422, "outside_roots"),
        ({"lineage": {"parents": ["00000000-0000"]}}, 404, "unknown_run"),
        ({"lineage": {"note": "another"}}, 409, "already_registered"),
        ({"dataset": "Not A Name"}, 400, "invalid_body"),
    ):
        reply = server["admin"].post("/api/runs/register", json=body | changed)
        assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
        assert reply.headers["content-type"] == "application/problem+json"
    assert server["observer"].get("/api/runs/register").status_code == 405
