"""The page of ``cordel play``: one HTML file and three addresses, on this machine unless told else.

A browser that visits another page must not reach this one: a request whose Host is a name (DNS
rebinding) and a POST of another origin are refused. One computation runs at a time; when a page
goes away, its computation stops at the next token.
"""

import json
import logging
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from cordel.evaluation.sampling import SamplingParams
from cordel.play.session import (
    NEW_TOKENS,
    PROMPT_CHARS,
    SCORED_CHARS,
    Continuation,
    Event,
    Scoring,
    continue_text,
    score_text,
    with_whole_numbers,
)
from cordel.play.voices import Voices
from cordel.runtime.errors import EnvironmentProblem, UserError
from cordel.runtime.params import parse

log = logging.getLogger("cordel")
PAGE = Path(__file__).with_name("page.html")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BODY_BYTES = 1_000_000
LANGUAGES = ("en", "pt")


def serve(voices: Voices, params: SamplingParams, *, host: str, port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        EnvironmentProblem: The address is taken, or not this machine's.
    """
    import uvicorn  # noqa: PLC0415  (only here, and not where the application is tested)

    config = uvicorn.Config(
        application(voices, params, host=host),
        host=host,
        port=port,
        log_config=None,  # the command's own: uvicorn's would close other loggers' handlers
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise EnvironmentProblem(
            f"{host}:{port} cannot be listened on ({why}); choose another with --port or --host"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    log.info("http://%s:%d/ (Ctrl-C ends it)", shown, listener.getsockname()[1])
    if host not in LOOPBACK:
        log.info("others in your network can reach it: there is no password")
    uvicorn.Server(config).run(sockets=[listener])


def application(voices: Voices, params: SamplingParams, *, host: str = "127.0.0.1") -> Any:
    """Return the ASGI application."""
    busy = anyio.Lock()

    async def page(request: Request) -> Response:
        return page_response(request.headers.get("accept-language", ""), params)

    async def models(_: Request) -> Response:
        entries = await run_sync(voices.entries)
        found = [
            {"name": e.name, "kind": e.kind, "command": e.command, "ready": e.ready}
            for e in entries
        ]
        return JSONResponse(found)

    async def generation(request: Request) -> Response:
        asked = parse(with_whole_numbers(await body_of(request)), Continuation, "the request")
        return Stream(continue_text(voices, asked, params), busy)

    async def scoring(request: Request) -> Response:
        asked = parse(await body_of(request), Scoring, "the request")
        return Stream(score_text(voices, asked), busy)

    async def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)

    routes = [
        Route("/", page),
        Route("/api/models", models),
        Route("/api/generate", generation, methods=["POST"]),
        Route("/api/score", scoring, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={UserError: refuse})
    return guarded(app, host)


def guarded(app: Any, host: str) -> Any:
    """Return ``app`` behind the checks of Host and Origin."""

    async def guard(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "http" and (why := objection(Request(scope), host)):
            await JSONResponse({"error": why}, status_code=403)(scope, receive, send)
            return
        await app(scope, receive, send)

    return guard


def objection(request: Request, host: str) -> str | None:
    """Return why a request is not answered, or None."""
    named = request.headers.get("host", "")
    if not is_own_host(named, host):
        return (
            f"the host {named!r} is not this machine's; open the address that cordel play printed"
        )
    if request.method != "POST":
        return None
    origin = request.headers.get("origin")
    if origin not in (None, f"http://{named}"):
        return f"the origin {origin!r} is another page"
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        return "a request must be JSON (Content-Type: application/json)"
    return None


def is_own_host(named: str, host: str) -> bool:
    """Return whether a Host header names this machine: an address, or a name that was given.

    A name of somebody else's may resolve to this machine (DNS rebinding); an address cannot.
    """
    name = (named.rpartition("]")[0].lstrip("[") or named.partition(":")[0]).lower()
    if name in ("localhost", host):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or host not in LOOPBACK


async def body_of(request: Request) -> Mapping[str, Any]:
    """Return the JSON object of a request.

    Raises:
        UserError: It is too large, or none.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES:
            raise UserError(f"the request has over {BODY_BYTES:,} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise UserError("the request is not JSON") from None
    if not isinstance(found, dict):
        raise UserError("the request is no JSON object")
    return found


class Stream(Response):
    """Events as they come, one JSON object a line, until they end or nobody listens any more."""

    def __init__(self, events: Iterator[Event], busy: anyio.Lock) -> None:
        """Take the events, which are made while ``busy`` is held.

        Raises:
            UserError: What was asked for is not there. The first event, which is cheap, says so.
        """
        super().__init__(media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self.events, self.busy, self.first = events, busy, next(events)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""
        del scope

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async def write(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start"} | start)
                if self.busy.locked():
                    await write(line({"type": "waiting"}))
                async with self.busy:
                    event: Event | None = self.first
                    while event is not None:
                        await write(line(event))
                        # Not abandoned: a step that has begun ends before the lock is free.
                        event = await run_sync(next, self.events, None)
                await write(b"", more=False)
                group.cancel_scope.cancel()
        finally:
            self.events.close()  # pyright: ignore[reportAttributeAccessIssue]


def line(event: Event) -> bytes:
    """Return an event as a line."""
    return (json.dumps(event, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def page_response(accepted: str, params: SamplingParams) -> Response:
    """Return the page in the language of the browser; it can run no script but its own."""
    nonce = secrets.token_urlsafe(16)
    settings = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.prompts[0].seed,
        "prompt_chars": PROMPT_CHARS,
        "scored_chars": SCORED_CHARS,
        "new_tokens": NEW_TOKENS,
    }
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("{{nonce}}", nonce).replace("{{language}}", language_of(accepted))
    text = text.replace("{{settings}}", json.dumps(settings))
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Vary": "Accept-Language",
    }
    return HTMLResponse(text, headers=headers)


def language_of(accepted: str) -> str:
    """Return the language of an Accept-Language header that the page has; else English."""
    best, found = 0.0, LANGUAGES[0]
    for part in accepted.split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        language = tag.split("-")[0].lower()
        if language in LANGUAGES and quality > best:
            best, found = quality, language
    return found
