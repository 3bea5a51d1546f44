"""Who may ask: this machine's own page with the key, and nobody else (ASGI).

Any page in the same browser can send requests to 127.0.0.1, and any name can be made to point there. So the name that was
asked for (Host) and the page that asks (Origin) are checked, and every question carries a key that only the link holds, in its
fragment, which browsers send to nobody. There are no cookies: nothing is sent along without being asked for.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Any

__all__ = ["HEADERS", "Guard"]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
REASONS = {
    401: "the key is missing or wrong; open the link that was printed where the page was started",
    403: "another site asked; only this page may",
    421: "asked under a name that this page does not have; open the link that was printed",
}


class Guard:
    """Around an app: checks Host, Origin and, for what lies under /api, the key; adds headers to every answer.

    Args:
        app: what answers.
        key: what questions must carry as `Authorization: Bearer`.
        hosts: names with ports that the page may be asked under.
    """

    def __init__(self, app: Any, key: str, hosts: Iterable[str]) -> None:
        self.app, self.key, self.hosts = app, key, frozenset(hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let it pass, or say why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        answering = _with_headers(send)
        if refused is None:
            await self.app(scope, receive, answering)
            return
        body = REASONS[refused].encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await answering({"type": "http.response.start", "status": refused, "headers": headers})
        await answering({"type": "http.response.body", "body": body})

    def _refused(self, scope: Any) -> int | None:
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value)
        hosts = [value.decode("latin-1").lower() for value in given.get(b"host", [])]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 421
        origins = [value.decode("latin-1").lower() for value in given.get(b"origin", [])]
        if any(origin not in (f"http://{host}" for host in self.hosts) for origin in origins):
            return 403
        if b"cross-site" in given.get(b"sec-fetch-site", []) and scope["path"].startswith("/api"):
            return 403
        if scope["path"].startswith("/api"):
            keys = given.get(b"authorization", [])
            if len(keys) != 1 or not hmac.compare_digest(keys[0], f"Bearer {self.key}".encode()):
                return 401
        return None


def _with_headers(send: Any) -> Any:
    async def answering(message: Any) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = message | {"headers": [*message.get("headers", []), *ours]}
        await send(message)

    return answering
