"""The notebook's widget (anywidget): the same page; questions come as messages, and answers and events go back as messages."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ..errors import PellucidError, need
from .following import Following
from .given import Given
from .jobs import told_error
from .session import Session

__all__ = ["Talk", "widget_of"]

STREAMS = 128


class Talk:
    """What is said between a notebook's pages and a session; `send` takes each message to the pages."""

    def __init__(self, session: Session, send: Any) -> None:
        self.session, self.send = session, send
        self.open: dict[str, Following] = {}

    def hear(self, message: Any) -> None:
        """One message of a page: a question, or that it no longer waits for an answer."""
        if not isinstance(message, Mapping) or not isinstance(message.get("id"), str) or not isinstance(message.get("name"), str):
            return
        number, name = message["id"][:100], message["name"]
        try:
            if name == "stop":
                following = self.open.pop(number, None)
                if following is not None:
                    following.stop()
            elif name in self.session.quick:
                self.send({"id": number, "value": self.session.quick[name](Given(message.get("given")))})
            elif name in self.session.long:
                self._follow(number, name, Given(message.get("given")))
        except Exception as error:  # the user's code, too: the page says what happened and goes on
            if not isinstance(error, PellucidError):
                traceback.print_exception(error)
            self.send({"id": number, "error": told_error(error)})

    def _follow(self, number: str, name: str, given: Given) -> None:
        if len(self.open) >= STREAMS:
            self.send(
                {"id": number, "error": {"type": "Refused", "message": f"{STREAMS} requests are under way; wait until some are done"}}
            )
            return

        def tell(event: dict[str, Any] | None) -> None:
            if event is None:
                self.open.pop(number, None)
            self.send({"id": number, "end": True} if event is None else {"id": number, "event": event})

        following = self.session.follow(name, given, tell)
        if following.open:
            self.open[number] = following


def widget_of(session: Session) -> Any:
    """The widget.

    Raises:
        MissingExtra: anywidget is not installed.
    """
    anywidget: Any = need("anywidget", "insights")
    page = files(__package__) / "page"
    # A string, and not a path: anywidget would watch the file.
    content = {"_esm": (page / "page.js").read_text("utf-8"), "_css": (page / "page.css").read_text("utf-8")}
    widget = type("Insights", (anywidget.AnyWidget,), content)()
    talk = Talk(session, widget.send)
    widget.on_msg(lambda _, message, buffers: talk.hear(message))
    return widget
