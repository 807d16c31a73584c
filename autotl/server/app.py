"""The application: paths, and what they answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException

from autotl._version import __version__
from autotl.data.decoding import UndecodableImage
from autotl.data.sandbox import SandboxedDecoder
from autotl.escaping import escape
from autotl.model.answering import answerer
from autotl.server.answers import Answers, ModelInfo, Refusal, answer_of
from autotl.server.batching import Batcher
from autotl.server.fetching import fetch_image
from autotl.server.guard import Guard
from autotl.server.metrics import Metrics
from autotl.server.pages import docs_page, drop_page
from autotl.server.refusals import Refused
from autotl.server.settings import ServerSettings
from autotl.server.uploads import Upload, read_uploads, refusal_of, screen

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from autotl.model.doubt import Doubts
    from autotl.model.image_model import ImageModel

__all__ = ["ModelServer", "create_app"]

SCREENS = 4
"""Threads that check images before they are answered."""
FETCHES = 8
"""Threads that wait for other servers, so that slow ones hold up only requests that name URLs."""
MAX_EXPLAINING = 8
"""Heat maps that may wait in all: one takes as long as many answers."""
METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
IMAGE_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
    },
}
URLS_BODY = {
    "schema": {
        "type": "object",
        "required": ["urls"],
        "properties": {"urls": {"type": "array", "items": {"type": "string", "format": "uri"}}},
    }
}
REASONS = {
    400: "No image, or a form that can't be read",
    401: "The token is missing",
    403: "Another host name or origin",
    408: "The body didn't arrive in time",
    413: "Too many bytes, pixels or images",
    415: "Neither an image nor a form",
    422: "An image is broken, an animation, or can't be fetched",
    503: "Too many images wait",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": reason} for status, reason in REASONS.items()
}


class ModelServer:
    """A model with what a server needs beside it: batches, counters, threads.

    Args:
        model: compiled on construction, which takes seconds.
        name: of the model, for people.
        doubts: if answers may be "unsure" or "unknown", or have prediction sets.
        fetch: from a URL and a number of bytes to its content.
    """

    def __init__(
        self,
        model: "ImageModel",
        name: str,
        settings: ServerSettings,
        doubts: "Doubts | None" = None,
        fetch: Callable[[str, int], bytes] = fetch_image,
    ):
        self.model, self.settings, self.doubts, self.fetch = model, settings, doubts, fetch
        self.metrics = Metrics(lambda: self.batcher.num_waiting)
        self.batcher = Batcher(
            answerer(model, doubts.measure if doubts else None),
            model.threads,
            settings.batch_images,
            settings.batch_wait,
            settings.max_waiting,
            self.metrics.batches.observe,
        )
        self.decoder = SandboxedDecoder(settings.decode_seconds, settings.image_limits)
        self.screens = ThreadPoolExecutor(SCREENS, thread_name_prefix="screen")
        self.fetches = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self.explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.num_explaining = 0
        self._warm_up()
        wishes = doubts.wishes if doubts else {"abstain_at": None, "unknown_at": None, "coverage": None}
        self.info = ModelInfo(
            model=name,
            classes=list(model.classes),
            version=__version__,
            **wishes,
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
            max_images=settings.max_images,
            allow_urls=settings.allow_urls,
        )

    def _warm_up(self) -> None:
        """Predict a grey image: libraries allocate and import on first use."""
        grey = BytesIO()
        Image.new("RGB", (64, 64), "grey").save(grey, "PNG")
        for _ in self.batcher.threads:
            self.batcher.answer([grey.getvalue()])

    async def uploads(self, request: Request) -> list[Upload]:
        """The images of a request, checked. Raises Refused."""
        uploads = await read_uploads(request, self.settings, partial(_run_on, self.fetches), self.fetch)
        await screen(uploads, self.decoder, partial(_run_on, self.screens))
        return uploads

    async def predict(self, uploads: list[Upload], top: int) -> Answers:
        """The answers to images. Raises Refused."""
        rows = await self.batcher([upload.content for upload in uploads])
        answers = []
        for number, (upload, row) in enumerate(zip(uploads, rows, strict=True)):
            if isinstance(row, UndecodableImage):
                raise refusal_of(row, uploads, number)
            answers.append(answer_of(row, self.model.classes, top, upload.name, self.doubts))
        for answer in answers:
            is_class = answer.answer is None or answer.answer == answer.label
            self.metrics.images.labels("class" if is_class else answer.answer).inc()
        return Answers(predictions=answers)

    async def explain(self, upload: Upload, label: str | None) -> bytes:
        """The heat map of an image as a PNG. Raises Refused."""
        if label is not None and label not in self.model.classes:
            raise Refused(422, f"The model has no class {escape(label)[:100]!r}: see /model.")
        if self.num_explaining >= MAX_EXPLAINING:
            raise Refused(503, "The server is busy. Try again in a second.")
        self.num_explaining += 1
        try:
            (row,) = await self.batcher([upload.content])
            if isinstance(row, UndecodableImage):
                raise refusal_of(row, [upload], 0)
            return bytes(await _run_on(self.explaining, self._heat_map, upload.content, row, label))
        finally:
            self.num_explaining -= 1

    def _heat_map(self, content: bytes, row: Any, label: str | None) -> bytes:
        probabilities = row[None, : len(self.model.classes)]
        (heat,) = self.model.explainer.explain([content], probabilities, self.model.classes, label)
        drawn = BytesIO()
        heat.overlay().save(drawn, "PNG")
        return drawn.getvalue()

    def close(self) -> None:
        """End the threads."""
        self.batcher.close()
        self.screens.shutdown(cancel_futures=True)
        self.fetches.shutdown(wait=False, cancel_futures=True)  # each has its own deadline
        self.explaining.shutdown(cancel_futures=True)


async def _run_on(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def create_app(server: ModelServer) -> "ASGIApp":
    """The ASGI application of a server, with its guard. Its lifespan ends with the server's threads."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(
        title=f"autotl serve: {escape(server.info.model)}",
        version=__version__,
        description="Classifies images.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from other servers
        redoc_url=None,
    )
    _add_answers(app, server)
    _add_pages(app, server)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status == 503 else None
        return _json(error.status, error.reason, error.image, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _json(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        return _json(error.status_code, f"{error.detail}. See /docs", headers=error.headers)

    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    return Guard(app, server.settings, server.metrics, paths)


def _json(status: int, detail: str, image: int | None = None, headers: Any = None) -> JSONResponse:
    content = Refusal(detail=detail, image=image).model_dump(exclude_none=True)
    return JSONResponse(content, status, headers)


def _add_answers(app: FastAPI, server: ModelServer) -> None:
    body = {**IMAGE_BODY, "content": {**IMAGE_BODY["content"], "application/json": URLS_BODY}}  # type: ignore[dict-item]
    accepted = {"requestBody": body if server.settings.allow_urls else IMAGE_BODY}
    Top = Annotated[int, Query(ge=1, le=1000, description="Number of classes to name.")]

    @app.post(
        "/predict", response_model_exclude_none=True, responses=REFUSALS, openapi_extra=accepted, summary="Classify"
    )
    async def predict(request: Request, top: Top = 3) -> Answers:
        """Classify one image, sent as the body, or several, sent as a form with fields named files."""
        return await server.predict(await server.uploads(request), top)

    @app.post(
        "/explain",
        responses={**REFUSALS, 200: {"content": {"image/png": {}}, "description": "The picture"}},
        response_class=Response,
        openapi_extra={"requestBody": IMAGE_BODY},
        summary="Show where an image speaks for a class",
    )
    async def explain(
        request: Request,
        label: Annotated[str | None, Query(description="The class; by default the one that is predicted.")] = None,
    ) -> Response:
        """The heat map of one image: its places that speak for a class, the brighter, the stronger."""
        uploads = await server.uploads(request)
        if len(uploads) > 1:
            raise Refused(413, "More than one image: heat maps are drawn one by one.")
        return Response(await server.explain(uploads[0], label), media_type="image/png")

    @app.get("/model", summary="The model and the limits")
    async def model() -> ModelInfo:
        """The classes, and what the server takes."""
        return server.info


def _add_pages(app: FastAPI, server: ModelServer) -> None:
    drop, drop_policy = drop_page(server.info)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(drop, headers={"content-security-policy": drop_policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        content, policy = docs_page(app.openapi())
        return HTMLResponse(content, headers={"content-security-policy": policy})

    @app.get("/healthz", summary="Whether the server answers")
    async def healthz() -> dict[str, str]:
        """Needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, summary="Counters for Prometheus")
    async def metrics() -> Response:
        """Requests, seconds, images and batches in Prometheus's text format."""
        return Response(server.metrics.text(), media_type=METRICS_TYPE)
