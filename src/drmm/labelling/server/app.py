"""The addresses of the label page."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jinja2 import Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from drmm.display.pages import asset
from drmm.errors import DrmmError, InputError
from drmm.labelling.server.desk import Desk

__all__ = ["pages"]

_MOST, _PATIENCE = 4 << 20, 10.0  # bytes and seconds of what is sent
_AT_ONCE = 500  # pictures
_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}  # under an address of this server's time alone
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def pages(desk: Desk) -> Starlette:
    """What is at which address; who may ask is for `drmm.labelling.server.guard`.

    Args:
        desk: what they show, and where labels go.
    """
    at = _Pages(desk)
    reads = {
        "/": at.page,
        "/page.{kind}": at.asset,
        "/state": at.state,
        "/pictures": at.pictures,
        "/thumbnail/{number:int}": at.thumbnail,
        "/picture/{number:int}": at.picture,
        "/explained/{number:int}": at.explained,
        "/drawing/{number:int}": at.drawing,
    }
    writes = {"/deeds": at.deeds, "/answer": at.answer}
    routes = [Route(path, what) for path, what in reads.items()]
    routes += [Route(path, what, methods=["POST"]) for path, what in writes.items()]
    app = Starlette(routes=routes, exception_handlers={DrmmError: _in_one_line, Exception: _unforeseen})
    app.router.redirect_slashes = False
    return app


class _Pages:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
            asset("labelling/page/page.html")
        )
        self._page = template.render(title=desk.title, store=desk.name)

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page)

    async def asset(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in _TYPES:
            raise HTTPException(404)
        return Response(asset(f"labelling/page/page.{kind}"), media_type=_TYPES[kind])

    def state(self, _: Request) -> Response:
        return JSONResponse(self._desk.state())

    def pictures(self, request: Request) -> Response:
        asked = request.query_params
        but = {int(number) for number in asked.get("but", "").split(",") if _is_number(number)}
        n = int(asked["n"]) if _is_number(asked.get("n", "")) else 1
        return JSONResponse(self._desk.pictures(asked.get("mode", ""), min(n, _AT_ONCE), but))

    def thumbnail(self, request: Request) -> Response:
        return _jpeg(self._desk.pool.thumbnail(request.path_params["number"]))

    def picture(self, request: Request) -> Response:
        return _jpeg(self._desk.pool.picture(request.path_params["number"]))

    def explained(self, request: Request) -> Response:
        return JSONResponse(self._desk.explained(request.path_params["number"]))

    def drawing(self, request: Request) -> Response:
        return Response(self._desk.drawing(request.path_params["number"]), media_type="image/png")

    async def deeds(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._desk.do, await _told(request)))

    async def answer(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._desk.answer, await _told(request)))


def _jpeg(content: bytes) -> Response:
    return Response(content, headers=_KEPT, media_type="image/jpeg")


async def _told(request: Request) -> dict[str, Any]:
    """The JSON object of a request, which may not be large, nor take long to come."""
    content = b""
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                content += part
                if len(content) > _MOST:
                    raise HTTPException(413)
        told = json.loads(content)
    except TimeoutError as error:
        raise HTTPException(408) from error
    except (ValueError, RecursionError) as error:
        raise InputError("that is not JSON: reload the page") from error
    if not isinstance(told, dict):
        raise InputError("that is no JSON object: reload the page")
    return told


def _in_one_line(_: Request, error: Exception) -> Response:
    """What the person can mend; 422 means that the same request would fail again."""
    return JSONResponse({"error": str(error)}, 422 if isinstance(error, InputError) else 503)


def _unforeseen(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "that should not have happened: the terminal says what to report"}, 500)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
