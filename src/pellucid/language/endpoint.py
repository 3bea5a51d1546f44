"""An OpenAI-compatible address: asked again where that may help, refusals in words, and how its answers are read."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from ..errors import InputError, OptionError, RemoteError

__all__ = ["KEY_VARIABLE", "WAYS", "Endpoint", "Memory", "Prompted", "address", "checked_text"]

X = TypeVar("X")


class Memory:
    """Answers by question. Who asks what is being asked already waits for that answer; failures are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, Future[Any]] = {}

    def get(self, question: Any, ask: Callable[[], X]) -> X:
        key = hashlib.sha256(json.dumps(question, sort_keys=True, default=repr).encode()).digest()
        with self._lock:
            known: Future[X] | None = self._known.get(key)
            answer: Future[X] = known or self._known.setdefault(key, Future())
        if known is None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                with self._lock:
                    del self._known[key]
                answer.set_exception(error)
        return answer.result()


OPAQUE = ("\ufffd", "\u0120", "\u010a", "\u2581", "<0x", "token_id:")  # parts of a character, pieces as the vocabulary has them


class Prompted(NamedTuple):
    """The tokens of a prompt as text, where that is known, and their log-probabilities; the first one may have none."""

    pieces: Sequence[str | None]
    logprobs: Sequence[float | None]

    def last(self, count: int) -> Prompted:
        return Prompted(tuple(self.pieces[-count:]), tuple(self.logprobs[-count:]))

    def spelling(self, target: str, own: int | None) -> list[float]:
        """The log-probabilities of the last tokens, which spell the target; of as many as it has by its `own` tokenizer."""
        read, bare, tail, count = [piece or "" for piece in self.pieces], "".join(target.split()), "", 0
        # Tokens at the border may lack the white space that the target begins with, or have some more.
        while count < len(read) and (len("".join(tail.split())) < len(bare) or (len(tail) < len(target) and not read[-1 - count].strip())):
            tail, count = read[-1 - count] + tail, count + 1
        spelt = "".join(tail.split()) == bare
        unread = own and own <= len(read) and any(not p or any(mark in p for mark in OPAQUE) for p in self.pieces[-own:])
        if not (spelt or unread) or (spelt and own not in (None, count)):
            many = f"as {count} tokens" if spelt else f"but no run of tokens (the last are {read[-max(count, 1) :]}) is just that"
            raise InputError(
                f"the endpoint's text ends in the target {target!r}, {many}{f', of {own} by the tokenizer' if own else ''}; let the target "
                "begin with a space, give the tokenizer of the endpoint's model, or send token ids (VLLMProvider's send_ids)"
            )
        found = self.logprobs[-(count if spelt or own is None else own) :]
        if any(value is None for value in found):
            raise InputError(f"the first token of {target!r} has no log-probability, because nothing precedes it; give a longer prompt")
        return [float(value) for value in found if value is not None]


def _echoed(answer: Any) -> Prompted | None:
    """From tokens that repeat the prompt. Not by their offsets: an endpoint counts the text of special tokens too."""
    found = answer["choices"][0].get("logprobs")
    if not found:
        return None
    count = (answer.get("usage") or {}).get("prompt_tokens") or len(found["tokens"]) - 1  # one is generated
    known = min(len(found["tokens"]), len(found["token_logprobs"]))
    return Prompted(found["tokens"][:count], found["token_logprobs"][:count]) if 0 < count <= known else None


def _of_prompt(answer: Any) -> Prompted | None:
    """From vLLM's own list: a dictionary of one token each, and nothing for the first."""
    found = answer["choices"][0].get("prompt_logprobs")
    if not found:
        return None
    only = [next(iter(one.values())) if one else {} for one in found]  # the prompt's own token comes first
    return Prompted([one.get("decoded_token") for one in only], [one.get("logprob") for one in only])


WAYS: dict[str, tuple[dict[str, Any], Callable[[Any], Prompted | None]]] = {
    "echo": ({"echo": True, "logprobs": 1}, _echoed),
    "prompt_logprobs": ({"prompt_logprobs": 0}, _of_prompt),
}

KEY_VARIABLE = "OPENAI_API_KEY"
FIRST_WAIT, MOST_WAIT = 0.5, 60.0  # seconds
OPEN_AT = "does api_url end as it should, mostly with /v1?"


class Passing(Exception):
    """Trouble that may pass; `wait` is what the endpoint says about it."""

    def __init__(self, words: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(words)
        self.wait, self.status = wait, status


class Still(HTTPRedirectHandler):
    """Nothing is sent on to another address: what is asked, and the key, are for this one."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(eq=False)
class Endpoint:
    """An address that is asked, again where that may help, and at most so often."""

    url: str
    key: str = field(repr=False)
    timeout: float
    retries: int
    max_calls: int | None
    sleep: Callable[[float], None]
    calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    opener: OpenerDirector = field(default_factory=lambda: build_opener(Still))

    def first_model(self) -> str:
        names = self.models()
        if not names:
            raise RemoteError(f"{self.url} has no models; start it with one, or give model_name")
        return names[0]

    def models(self) -> list[str]:
        return self.ask("/models", lambda answer: [checked_text(model["id"]) for model in answer["data"]])

    def ask(self, path: str, read: Callable[[Any], X], body: dict[str, Any] | None = None) -> X:
        """What `read` finds in the answer, after as many attempts as it takes; a question with a body is a paid one."""
        for attempt in itertools.count():
            if body is not None:
                self._spend()
            try:
                answer = self._sent(path, body)
                break
            except Passing as trouble:
                wait = min(FIRST_WAIT * 2**attempt, MOST_WAIT) if trouble.wait is None else trouble.wait
                if attempt >= self.retries or wait > MOST_WAIT:
                    raise self._given_up(path, trouble, attempt + 1) from trouble
                self.sleep(wait)
        try:
            return read(json.loads(answer))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            shown = self._without_key(answer[:200].decode(errors="replace"))
            raise RemoteError(f"{self.url}{path} answers {shown!r}, not as OpenAI-compatible endpoints do ({error}); {OPEN_AT}") from error

    def _given_up(self, path: str, trouble: Passing, attempts: int) -> RemoteError:
        asked = "" if trouble.wait is None else f", and asks to wait for {trouble.wait:g} s"
        message = f"{self.url}{path} {trouble}, after {attempts} attempt{'s' if attempts > 1 else ''}{asked}"
        return RemoteError(f"{message}; see whether it runs and is not too busy, or raise timeout or retries", status=trouble.status)

    def _spend(self) -> None:
        with self.lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise RemoteError(f"all max_calls={self.max_calls} have been made; set the provider's max_calls higher to go on")
            self.calls += 1

    def _sent(self, path: str, body: dict[str, Any] | None) -> bytes:
        """The answer to one attempt."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json", "Accept": "application/json"})
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        end = time.monotonic() + self.timeout
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                return b"".join(_parts(response, end))
        except HTTPError as error:
            self._refuse(path, error, body)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            raise Passing(f"does not answer within {self.timeout:g} s" if late else f"cannot be reached ({reason!r})") from error

    def _refuse(self, path: str, error: HTTPError, body: dict[str, Any] | None) -> NoReturn:
        """A status that is not success, in words."""
        status, said = error.code, self._without_key(_message(error))
        if status in (408, 429) or status >= 500:
            raise Passing(f"answers with status {status} ({said})", _wait(error.headers.get("Retry-After")), status) from error
        message, out = f"{self.url}{path} refuses with status {status} ({said})", ""
        if status == 401:
            out = f"{'the API key is wrong: give another' if self.key else 'give'} api_key, or set {KEY_VARIABLE}"
        elif status == 404:
            out = OPEN_AT if body is None else self._known_models(body["model"])
        elif 300 <= status < 400:
            out = f"it has moved to {error.headers.get('Location')}: give that as api_url"
        raise RemoteError(f"{message}; {out}" if out else message, status=status) from error

    def _known_models(self, name: str) -> str:
        try:
            names = self.models()
        except RemoteError:
            return OPEN_AT
        return f"the model was {name!r}, and those there are {', '.join(map(repr, names)) or 'none'}: give one as model_name"

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def address(api_url: str) -> str:
    """The address, if it is one that can be asked and holds no secrets.

    Raises:
        OptionError: it does not, or is none.
    """
    if "@" in api_url or "?" in api_url:
        raise OptionError("api_url has credentials or a query in it; give the address by itself, and a key as api_key")
    try:
        parts = urlsplit(api_url.strip())
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in parts.netloc
    except ValueError:  # brackets or a port that are none
        known = False
    if not known:
        raise OptionError(f"api_url is {api_url!r}; give an address like 'http://localhost:8000/v1'")
    return api_url.strip().rstrip("/")


def _parts(response: Any, end: float) -> Iterator[bytes]:
    """The body, until the end: a connection's time-out is that of each piece alone."""
    while part := response.read1(2**16):
        yield part
        if time.monotonic() > end:
            raise TimeoutError
    if response.length:
        raise HTTPException(f"the answer breaks off {response.length} bytes before its end")


def checked_text(value: Any) -> str:
    """The value, if it is text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _message(error: HTTPError) -> str:
    """What an endpoint says about its refusal."""
    text = ""
    try:
        text = error.read(10_000).decode(errors="replace").strip()
        found = json.loads(text)
        return str((found.get("error") or found)["message"])[:500]
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
        return text[:200] or str(error.reason)
    finally:
        error.close()


def _wait(said: str | None) -> float | None:
    """Seconds, which an endpoint says as such or as a date."""
    try:
        return None if said is None else max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(said)).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
