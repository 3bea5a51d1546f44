"""The page as a local web server: three files, and questions with JSON that are answered with JSON or a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import OptionError, PellucidError, need, warn
from .given import Given
from .guard import Guard
from .jobs import Event, told_error
from .session import Session

__all__ = ["BODY", "Serving", "app_of", "serve"]

BODY = 64 * 1024  # bytes of a request
SECONDS = 10  # for its body to arrive
STREAMS = 128  # requests under way
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


class Refused(Exception):
    """A request that is not answered: a status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def app_of(session: Session, key: str, hosts: set[str]) -> Any:
    """The ASGI app: the page's files for everyone who comes under the right name, answers for those with the key."""
    need("starlette", "insights")
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    streams = asyncio.Semaphore(STREAMS)

    def told(value: Any, status: int = 200) -> Response:
        # In ASCII: a text may hold halves of letters, which UTF-8 cannot write.
        return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")

    async def file(request: Request) -> Response:
        name, kind = PAGE[request.url.path]
        return Response((files(__package__) / "page" / name).read_bytes(), media_type=kind)

    async def asked(request: Request) -> Response:
        try:
            name = request.path_params["name"]
            if name not in session.quick and name not in session.long:
                raise Refused(404, f"there is no {name[:40]!r}; ask for {', '.join([*session.quick, *session.long])}")
            given = Given(await _json(request))
            if name in session.quick:
                return told(await run_in_threadpool(session.quick[name], given))
            if streams.locked():
                raise Refused(429, f"{STREAMS} requests are under way; wait until some are done")
            return StreamingResponse(_events(session, name, given, streams), media_type="text/event-stream")
        except Refused as refused:
            return told({"error": {"type": "Refused", "message": str(refused)}}, refused.status)
        except PellucidError as error:
            return told({"error": told_error(error)}, 422)
        except Exception as error:  # the user's code: the page says what happened and goes on
            return told({"error": told_error(error)}, 500)

    routes = [*(Route(path, file, methods=["GET"]) for path in PAGE), Route("/api/{name}", asked, methods=["POST"])]
    return Guard(Starlette(routes=routes), key, hosts)


async def _json(request: Any) -> Any:
    """The body, if it is JSON, small, and comes in time."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the request is not JSON; send Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > BODY:
                    raise Refused(413, f"the request is larger than {BODY} bytes")
        return json.loads(bytes(body))
    except TimeoutError as error:
        raise Refused(408, f"the request did not arrive within {SECONDS} seconds") from error
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON: {error}") from error


async def _events(session: Session, name: str, given: Given, streams: asyncio.Semaphore) -> AsyncIterator[str]:
    """What happens to a request, as server-sent events; who no longer reads has given it up."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

    def tell(event: Event | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server is gone
            loop.call_soon_threadsafe(queue.put_nowait, event)

    async with streams:
        begun = asyncio.ensure_future(asyncio.to_thread(session.follow, name, given, tell))
        try:
            following = await asyncio.shield(begun)
        except asyncio.CancelledError:  # who asked has left before it began
            begun.add_done_callback(lambda late: None if late.cancelled() or late.exception() else late.result().stop())
            raise
        except Exception as error:  # a request that cannot be begun, or the user's code
            yield _event({"n": 0, "kind": "error", "error": told_error(error)})
            return
        try:
            while (event := await queue.get()) is not None:
                yield _event(event)
        finally:
            following.stop()


def _event(event: Event) -> str:
    return f"data: {json.dumps(event, allow_nan=False)}\n\n"


class Serving:
    """A server under way: `url` is the link with the key, `stop()` ends it."""

    def __init__(self, server: Any, thread: threading.Thread, url: str, bound: socket.socket) -> None:
        self.server, self.thread, self.url = server, thread, url
        self.port: int = bound.getsockname()[1]
        self._bound = bound
        self._link: Path | None = None

    def show(self) -> None:
        """Open the page in the browser, by way of a file that only this user can read.

        Other users of the machine see what a browser was started with, and the link holds the key.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".html", prefix="pellucid-", delete=False) as file:  # readable by its owner only
            file.write(f'<!doctype html><title>Pellucid</title><meta http-equiv="refresh" content="0; url={self.url}">')
        self._link = Path(file.name)
        webbrowser.open(self._link.as_uri())

    def wait(self) -> None:
        """Until it ends, or Ctrl-C."""
        try:
            while self.thread.is_alive():
                self.thread.join(0.2)
        except KeyboardInterrupt:
            self.stop()

    def stop(self) -> None:
        """End it; requests under way are cut off."""
        self.server.should_exit = self.server.force_exit = True
        if self.thread is not threading.current_thread():
            self.thread.join(10)
        self._bound.close()
        if self._link is not None:
            self._link.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"Serving({self.url})"


def serve(session: Session, host: str = "127.0.0.1", port: int = 0, expose: bool = False) -> Serving:
    """Serve the page in a thread of its own.

    Raises:
        OptionError: an address of other machines without `expose`, a port that is taken. MissingExtra.
    """
    uvicorn: Any = need("uvicorn", "insights")
    if not _is_loopback(host):
        if not expose:
            ways = "give expose=True (--expose) if they may use the model, else 127.0.0.1"
            raise OptionError(f"host {host!r} can be reached from other machines; {ways}")
        warn("exposed", f"the page listens at {host}: whoever reaches it and has the link can use the model; the link is not encrypted")
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OptionError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}; choose another port, or 0 for a free one"
        ) from error
    port, key = bound.getsockname()[1], secrets.token_urlsafe(24)
    config = uvicorn.Config(
        app_of(session, key, _names(host, port)), log_level="warning", access_log=False, server_header=False, date_header=False,
        timeout_keep_alive=5, limit_concurrency=512, lifespan="off", ws="none"
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="pellucid-insights-server", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    return Serving(server, thread, f"http://{_shown(host)}:{port}/#key={key}", bound)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    """A name that can stand in a link: of all addresses the machine's own name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _names(host: str, port: int) -> set[str]:
    """The names that the page may be asked under."""
    names = {"127.0.0.1", "localhost", "[::1]", _shown(host)}
    if host in ("0.0.0.0", "::"):
        with contextlib.suppress(OSError):
            names |= {socket.getfqdn(), *socket.gethostbyname_ex(socket.gethostname())[2]}
    return {f"{name.lower()}:{port}" for name in names}
