"""Routes of runs: pictures, and registering. Importing this adds them to `router`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import Query, Request, Response

from ._guard import CALLER
from ._image import LARGEST_SCALE, live_image, read_image
from ._models import Run
from ._people_routes import router
from ._register import Register, register
from ._routes import _problem
from ._runs import read_run
from ._scope_routes import ContextNow

__all__ = ["router"]

AT_ONCE = 2
"""Pictures made at the same time; others wait, and every other route has the threads it needs."""

_limiter: CapacityLimiter | None = None


def _places() -> CapacityLimiter:
    global _limiter
    if _limiter is None:  # belongs to the running event loop
        _limiter = CapacityLimiter(AT_ONCE)
    return _limiter


@router.head("/runs/{uid}/image.png", include_in_schema=False)
@router.get(
    "/runs/{uid}/image.png",
    response_class=Response,
    responses={
        200: {
            "description": "8-bit grey PNG. `Preview-Dataset`, `-Frames` (first:stop), `-Frames-Written`, `-Scale`, `-Pixel-Um`"
            " (of a pixel of the picture, in the sample), `-Percentiles`, `-Range` (grey values shown as black and as white),"
            " `-Saturated` (share of the camera's pixels), `-Saturation` (from which grey value) say what it shows.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        400: _problem("`invalid_query`"),
        404: _problem("`unknown_run`, `unknown_dataset`, `unknown_frame`"),
        422: _problem("`preview_too_large`"),
        500: _problem("`unreadable_run`, `unreadable_frame`"),
        503: _problem("`volume_unreachable`"),
    },
)
async def get_image(
    uid: str,
    context: ContextNow,
    dataset: Annotated[str | None, Query(max_length=80, description="May be left out where the run has one.")] = None,
    index: Annotated[
        str | None,
        Query(
            max_length=40,
            description="A frame: `3`; `-1`, the newest on disk, is the default. With `project` also a range: `10:20`.",
        ),
    ] = None,
    project: Annotated[
        Literal["max", "mean"] | None, Query(description="Of all frames on disk, or of those that `index` names.")
    ] = None,
    scale: Annotated[int, Query(ge=1, le=LARGEST_SCALE, description="Pixels along each axis that become one.")] = 1,
) -> Response:
    """A picture of a frame or of a projection, its contrast stretched between percentiles; also while the run grows."""
    make = partial(read_image, context.scope, context.layout, uid, dataset, index, project, scale)
    shown, headers = await to_thread.run_sync(make, limiter=_places())
    return Response(shown.png, media_type="image/png", headers={**headers, "Cache-Control": "no-cache"})


@router.head("/scope/live.png", include_in_schema=False)
@router.get(
    "/scope/live.png",
    response_class=Response,
    responses={
        200: {
            "description": "8-bit grey PNG; `Preview-…` as of a run's `image.png`, and `Live-Camera`, `Live-Frame`, `Live-Time`.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        400: _problem("`invalid_query`"),
        404: _problem("`not_live`"),
        422: _problem("`preview_too_large`"),
    },
)
async def get_live_image(
    context: ContextNow,
    scale: Annotated[int, Query(ge=1, le=LARGEST_SCALE, description="Pixels along each axis that become one.")] = 1,
) -> Response:
    """What the plan `live` sees now; the frame is in no file. It goes on while somebody asks for this, at most 2 s apart."""
    make = partial(live_image, context.layout, scale)
    shown, headers = await to_thread.run_sync(make, limiter=_places())
    return Response(shown.png, media_type="image/png", headers={**headers, "Cache-Control": "no-store"})


@router.post(
    "/runs/register",
    status_code=201,
    response_model=Run,
    responses={
        200: {"model": Run, "description": "It was registered before, with the same facts."},
        404: _problem("`unknown_run`: a parent"),
        409: _problem("`already_registered`; `run_uid` says which run it is"),
        422: _problem("`outside_roots`, `unsupported_file`"),
        500: _problem("`unreadable_run`"),
    },
)
async def post_register(request: Request, response: Response, context: ContextNow, body: Register) -> Run:
    """An existing file inside a storage root becomes a run by UID, with its lineage. It is neither moved nor changed."""
    by = request.scope[CALLER].role
    uid, new = await to_thread.run_sync(register, context.scope, context.layout, body, by)
    response.status_code = 201 if new else 200
    return await to_thread.run_sync(read_run, context.scope, context.layout, uid, context.tiled())
