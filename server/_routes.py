"""Our routes: they translate between HTTP and the functions below it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader

from .. import __version__
from ._context import Context, current
from ._guard import CALLER, Caller
from ._microscope import scope_view
from ._models import ProblemBody, Readiness, Run, ScopeView, ServerView
from ._problems import MEDIA_TYPE, Problem
from ._readiness import readiness
from ._runs import read_run


class _ProblemRoute(APIRoute):
    """A route whose refusals are problem bodies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_or_refuse(request: Request) -> Response:
            try:
                return await answer(request)
            except Problem as problem:
                return _response(problem)
            except RequestValidationError as error:
                return _response(_invalid(error))

        return answer_or_refuse


_key = APIKeyHeader(name="Authorization", scheme_name="RoleKey", description="`ApiKey KEY`", auto_error=False)


async def role(request: Request, _: str | None = Security(_key)) -> str:
    """The caller's role, as the guard found it. Without the guard in front nobody has one."""
    caller: Caller | None = request.scope.get(CALLER)
    if caller is None:
        raise Problem(
            "unauthenticated", "this server runs without queuescope's guard: start python -m queuescope.server"
        )
    if caller.narrowed:
        raise Problem(
            "forbidden", "this key's rights were narrowed, which these routes can't tell apart: use a role's key"
        )
    return caller.role


CurrentContext = Annotated[Context, Depends(current)]


def _problem(description: str) -> dict[str, Any]:
    return {"model": ProblemBody, "description": description}


_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: _problem("`unauthenticated`"),
    403: _problem("`forbidden`"),
}

router = APIRouter(
    prefix="/api", tags=["queuescope"], route_class=_ProblemRoute, dependencies=[Depends(role)], responses=_REFUSALS
)


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=Readiness, responses={503: _problem("`not_ready`, with the same members as 200")})
async def get_ready(context: CurrentContext) -> Readiness:
    """200 only when a plan submitted now would run. Answers within a second, whatever hangs."""
    answer = await readiness(context)
    if not answer.ready:
        raise Problem("not_ready", "; ".join(answer.reasons), **answer.model_dump(mode="json"))
    return answer


@router.get("/server", response_model=ServerView)
async def get_server(context: CurrentContext) -> ServerView:
    """Who answers here; asks neither the queue nor the hardware. A request with the header `Queuescope-Server` is refused by any
    other server than the one that it names, with 421 `other_server`.
    """
    return ServerView(server_id=context.server_id(), scope=context.scope.name, version=__version__)


@router.head("/runs/{uid}", include_in_schema=False)
@router.get(
    "/runs/{uid}",
    response_model=Run,
    responses={404: _problem("`unknown_run`"), 500: _problem("`unreadable_run`")},
)
async def get_run(uid: str, context: CurrentContext) -> Run:
    """A run by its UID: state, paths, shapes; no pixels. True at every moment, also while the run grows."""
    return await to_thread.run_sync(read_run, context.scope, context.layout, uid, context.tiled())


@router.head("/scope", include_in_schema=False)
@router.get(
    "/scope",
    response_model=ScopeView,
    responses={409: _problem("`released`"), 503: _problem("`hardware_unreachable`")},
)
async def get_scope(context: CurrentContext) -> ScopeView:
    """The microscope: every device with its units, limits and position, every light and how its state is known; read now."""
    return await scope_view(context)


def _invalid(error: RequestValidationError) -> Problem:
    """A query that isn't one is told in words; a body as FastAPI puts it."""
    wrong = error.errors()
    if wrong and all(one["loc"][0] == "query" for one in wrong):
        words = (f"{one['loc'][-1]}={str(one.get('input'))[:40]}: {one['msg']}" for one in wrong)
        return Problem("invalid_query", "; ".join(words))
    return Problem("invalid_body", str(error))


def _response(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers, MEDIA_TYPE)
