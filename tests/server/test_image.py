"""`GET /api/runs/{uid}/image.png` on the running server."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def run(guarded: Any, write_run: Callable[..., Any]) -> Any:
    run = write_run(guarded[0].layout)
    run.dataset("cam_a", frames=3, planned=5, shape=(32, 48))
    return run


def test_an_observer_sees_the_newest_frame_of_a_growing_run(guarded: Any, run: Any) -> None:
    """R3.4 previews are served by UID, also while the run grows; every role may."""
    reply = guarded[0]["observer"].get(f"/api/runs/{run.uid}/image.png", params={"dataset": "cam_a", "index": -1})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    assert (reply.headers["preview-frames"], reply.headers["preview-frames-written"]) == ("2:3", "3")
    picture = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert np.corrcoef(picture.ravel(), run.frames["cam_a"][2].ravel())[0, 1] > 0.99
    small = guarded[0]["observer"].get(f"/api/runs/{run.uid}/image.png?project=max&scale=8")
    assert np.asarray(Image.open(io.BytesIO(small.content))).shape == (4, 6)
    head = guarded[0]["observer"].head(f"/api/runs/{run.uid}/image.png")
    assert (head.status_code, head.content, head.headers["preview-dataset"]) == (200, b"", "cam_a")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("index=3", 404, "unknown_frame"),
        ("dataset=cam_z", 404, "unknown_dataset"),
        ("project=median", 400, "invalid_query"),
        ("scale=0", 400, "invalid_query"),
        ("scale=129", 400, "invalid_query"),
        ("scale=x", 400, "invalid_query"),
        ("index=x", 400, "invalid_query"),
        ("scale=100", 422, "preview_too_large"),
    ],
)
def test_what_is_refused_is_a_problem_body(guarded: Any, run: Any, query: str, status: int, code: str) -> None:
    """RFC 9457, as on every route of ours."""
    reply = guarded[0]["agent"].get(f"/api/runs/{run.uid}/image.png?{query}")
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    body = reply.json()
    assert (body["code"], body["status"]) == (code, status)
    assert len(body["detail"]) > 10


def test_an_unknown_run_has_no_picture(guarded: Any) -> None:
    reply = guarded[0]["observer"].get("/api/runs/00000000-0000/image.png")
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_run")
