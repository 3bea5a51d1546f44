"""Models behind an endpoint: a small server with a language model of known formula, and everything that can go wrong with it."""

import itertools
import json
import math
import pickle
import re
import sys
import threading
import time
import types
import urllib.request
import zlib
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from pellucid.batch import Run
from pellucid.captum.attr import FeatureAblation, KernelShap, Lime, Occlusion, Saliency, ShapleyValues, ShapleyValueSampling
from pellucid.captum.attr.remote import RemoteLLMAttribution
from pellucid.errors import InputError, OptionError, PellucidError, RemoteError, TargetError
from pellucid.gradient import integrated_gradients
from pellucid.language.remote import RemoteLLMProvider, VLLMProvider, remote_view
from pellucid.perturb import feature_ablation, lime, shapley

KEY = "sk-very-secret"
WEIGHTS = np.random.default_rng(0).normal(size=(41, 41)) * 1.5


def split(text):
    """Words take the space before them: "is " and "red" become " red"."""
    return re.findall(r"<s>| ?[A-Za-z]+|[^A-Za-z]", text)


def bucket(token):
    return 40 if token == "<s>" else zlib.crc32(token.encode()) % 40


def logprobs_of(tokens):
    """log p(token | those before it), the softmax of summed bigram weights that fade with distance; the first has none."""
    found = [None]
    for i in range(1, len(tokens)):
        logits = sum(0.5 ** (i - 1 - j) * WEIGHTS[bucket(tokens[j])] for j in range(i))
        found.append(float(logits[bucket(tokens[i])] - np.log(np.exp(logits).sum())))
    return found


def truth(prompt, target):
    """The target's log-probabilities, where prompt and target are tokens of their own."""
    tokens = ["<s>", *split(prompt), *split(target)]
    return logprobs_of(tokens)[-len(split(target)) :]


class Tokenizer:
    """Numbers for tokens, as they come."""

    bos_token_id = 0

    def __init__(self):
        self.known = ["<s>"]

    def encode(self, text, add_special_tokens=True, return_tensors=None):
        tokens = ["<s>"] * add_special_tokens + split(text)
        self.known += [token for token in dict.fromkeys(tokens) if token not in self.known]
        ids = [self.known.index(token) for token in tokens]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids):
        return "".join(self.known[int(i)] for i in (ids.flatten() if isinstance(ids, torch.Tensor) else ids))

    def convert_ids_to_tokens(self, ids):
        return [self.known[int(i)] for i in ids]

    def __call__(self, text, return_offsets_mapping=False, add_special_tokens=True):
        ends = list(itertools.accumulate(map(len, split(text))))
        return {"input_ids": self.encode(text, False), "offset_mapping": list(zip([0, *ends], ends, strict=False))}


class Server(ThreadingHTTPServer):
    """The completions API. `trouble` is done to the next requests, one each; `ways` says how log-probabilities are given."""

    daemon_threads = True
    request_queue_size = 64  # connections that wait; what comes beyond them tries again a second later

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.headers, self.trouble = [], [], []
        self.models, self.key, self.tokenizer = ["tiny", "other"], "", Tokenizer()
        self.ways = {"echo": "given", "prompt_logprobs": "given"}
        self.usage, self.write, self.lock = True, lambda token: token, threading.Lock()
        self.inside, self.most_inside, self.meeting = 0, 0, None
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self):
        return [body["prompt"] for body in self.asked]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def send(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, **headers):
        self.send(status, {"error": {"message": message}}, **headers)

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.refuse(401, f"wrong key: {self.headers.get('Authorization')}")
        elif self.path == "/v1/models":
            self.send(200, {"data": [{"id": name} for name in self.server.models]})
        else:
            self.refuse(404, "no such page")

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            trouble = server.trouble.pop(0) if server.trouble else None
            server.inside += 1
            server.most_inside = max(server.most_inside, server.inside)
        try:
            if server.meeting:
                server.meeting.wait()
            if trouble:
                trouble(self)
            elif body["model"] not in server.models:
                self.refuse(404, f"The model `{body['model']}` does not exist.")
            else:
                self.complete(body)
        finally:
            with server.lock:
                server.inside -= 1

    def complete(self, body):
        server, prompt = self.server, body["prompt"]
        tokens = ["<s>", *split(prompt)] if isinstance(prompt, str) else server.tokenizer.convert_ids_to_tokens(prompt)
        found = [*logprobs_of(tokens), -1.25]
        written = [server.write(token) for token in [*tokens, " the"]]
        choice = {"text": " the" * body["max_tokens"]}
        for way, asked in (("echo", body.get("echo")), ("prompt_logprobs", "prompt_logprobs" in body)):
            if asked and server.ways[way] == "refused":
                return self.refuse(400, f"{way} is not supported")
        if body.get("echo") and server.ways["echo"] == "given":
            offsets = [0, *itertools.accumulate(map(len, written))][:-1]
            choice["logprobs"] = {"tokens": written, "token_logprobs": found, "text_offset": offsets}
        elif body.get("logprobs"):
            choice["logprobs"] = {"tokens": [" the"], "token_logprobs": [-1.25], "text_offset": [0]}
        if "prompt_logprobs" in body and server.ways["prompt_logprobs"] == "given":
            only = [{str(i): {"logprob": v, "decoded_token": t}} for i, (t, v) in enumerate(zip(written, found, strict=True))][1:-1]
            choice["prompt_logprobs"] = [None, *only]
        return self.send(200, {"choices": [choice], **({"usage": {"prompt_tokens": len(tokens)}} if server.usage else {})})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def provider(server, waits):
    return VLLMProvider(server.url, "tiny", sleep=waits.append)


def fails(status, message="busy", **headers):
    return lambda handler: handler.refuse(status, message, **headers)


WORDS = ["the", "old", "sun", "sets", "late"]
TARGET = " red and low"


def prompt_of(row):
    return " ".join(word if there else "some" for word, there in zip(WORDS, row, strict=True))


def view_of(provider, **options):
    return remote_view(provider, prompt_of, TARGET, len(WORDS), **options)


ZEROS = (torch.zeros(1, len(WORDS), dtype=torch.float64),)


# What is asked, and what is read from the answer.


@pytest.mark.parametrize("way", ["echo", "prompt_logprobs"])
@pytest.mark.parametrize("with_tokenizer", [False, True])
@pytest.mark.parametrize("target", [" red", " red and low", "!", " red, and low."])
def test_the_targets_log_probabilities(server, provider, way, with_tokenizer, target):
    server.ways = dict.fromkeys(server.ways, "ignored") | {way: "given"}
    found = provider.get_logprobs("the old sun is", target, Tokenizer() if with_tokenizer else None)
    assert found == pytest.approx(truth("the old sun is", target), abs=1e-12)


@pytest.mark.parametrize("echo", ["ignored", "refused"])
def test_the_way_is_found_once(server, provider, echo):
    server.ways["echo"] = echo
    for prompt in ("a", "b", "c"):
        assert provider.get_logprobs(prompt, " d") == pytest.approx(truth(prompt, " d"))
    assert ["echo" in body for body in server.asked] == [True, False, False, False]


def test_without_counts_the_generated_token_is_left_out(server, provider):
    server.usage = False
    assert provider.get_logprobs("the", " red the") == pytest.approx(truth("the", " red the"))


@pytest.mark.parametrize("ways", [("ignored", "ignored"), ("refused", "ignored"), ("refused", "refused")])
def test_an_endpoint_without_log_probabilities(server, provider, ways):
    server.ways = dict(zip(server.ways, ways, strict=True))
    with pytest.raises(RemoteError, match="is not supported" if "refused" in ways else "gives no log-probabilities of a prompt"):
        provider.get_logprobs("a", " b")


def test_white_space_may_merge_across_the_border_but_words_may_not(server, provider):
    found = provider.get_logprobs("the sun is ", "red", Tokenizer())
    assert found == pytest.approx(truth("the sun is", " red"))
    with pytest.raises(InputError, match=r"sunny.*is just that"):
        provider.get_logprobs("the sun", "ny day")
    with pytest.raises(InputError, match="of 2 by the tokenizer"):
        provider.get_logprobs("the sun", "ny day", Tokenizer())


def test_white_space_tokens_of_the_target_are_its_own(server, provider):
    assert len(provider.get_logprobs("the sun", "  red", Tokenizer())) == 2
    assert provider.get_logprobs("the sun", " 7") == pytest.approx(truth("the sun", " 7"))


def test_token_ids_cannot_merge(server, waits):
    provider = VLLMProvider(server.url, "tiny", send_ids=True)
    found = provider.get_logprobs("the sun", "ny day", server.tokenizer)
    assert found == pytest.approx(truth("the sun", "ny day"))
    assert server.prompts == [server.tokenizer.encode("the sun") + server.tokenizer.encode("ny day", add_special_tokens=False)]
    with pytest.raises(OptionError, match="needs the tokenizer"):
        provider.get_logprobs("the sun", "ny day")


def test_another_models_tokenizer_is_noticed(server, provider):
    class Letters(Tokenizer):
        def encode(self, text, **_):
            return list(range(len(text)))

    with pytest.raises(InputError, match="as 1 tokens, of 4 by the tokenizer"):
        provider.get_logprobs("the sun is", " red", Letters())
    # Ids of another vocabulary: the endpoint reads another text from them.
    server.tokenizer.encode("other words that it knows first")
    ids = VLLMProvider(server.url, "tiny", send_ids=True)
    with pytest.raises(InputError, match="no run of tokens"):
        ids.get_logprobs("the sun is", " red", Tokenizer())


def test_pieces_that_are_no_text_need_the_tokenizer(server, provider):
    server.write = lambda token: token.replace(" ", "\u0120")
    found = provider.get_logprobs("the sun is", " red and", Tokenizer())
    assert found == pytest.approx(truth("the sun is", " red and"))
    with pytest.raises(InputError, match="give the tokenizer"):
        provider.get_logprobs("the sun is", " red and")


def test_pieces_without_white_space(server, provider):
    server.write = str.strip
    for tokenizer in (None, Tokenizer()):
        assert provider.get_logprobs("the sun is", " red and", tokenizer) == pytest.approx(truth("the sun is", " red and"))


def test_a_target_that_nothing_precedes(server, provider):
    ids = VLLMProvider(server.url, "tiny", send_ids=True)

    class Bare(Tokenizer):
        def encode(self, text, **options):
            return server.tokenizer.encode(text, add_special_tokens=False)

    with pytest.raises(InputError, match="nothing precedes it"):
        ids.get_logprobs("", "red", Bare())


def test_an_empty_target(provider, server):
    with pytest.raises(TargetError, match="target is empty"):
        provider.get_logprobs("the sun", "")
    with pytest.raises(TargetError, match="target is empty"):
        remote_view(provider, prompt_of, "", 5)
    with pytest.raises(InputError, match="units is 0"):
        remote_view(provider, prompt_of, "a", 0)
    assert not server.asked


def test_generation(server, provider):
    assert provider.generate("the sun", max_new_tokens=3, do_sample=False, temperature=None, top_p=None) == " the the the"
    assert server.asked == [{"model": "tiny", "prompt": "the sun", "max_tokens": 3, "temperature": 0.0}]
    assert provider.generate("the sun").count(" the") == 25
    with pytest.raises(OptionError, match="max_tokens is 4 and max_new_tokens 3"):
        provider.generate("the sun", max_tokens=4, max_new_tokens=3)
    assert provider.generate("the sun", max_tokens=4, max_new_tokens=4) == " the" * 4


def test_what_is_drawn_at_random_is_drawn_again(server, provider):
    for _ in range(2):
        provider.generate("a", temperature=0.7)
        provider.generate("a", temperature=0.7, seed=3)
        provider.generate("a", do_sample=False)
    assert len(server.asked) == 4


def test_the_first_model_is_the_usual_one(server):
    assert VLLMProvider(server.url + "/").model_name == "tiny"
    server.models = []
    with pytest.raises(RemoteError, match="has no models"):
        VLLMProvider(server.url)
    assert not server.asked


# What goes wrong.


def test_trouble_that_passes(server, provider, waits):
    server.trouble = [fails(500), fails(503), fails(429), fails(429, Retry_After="0")]
    assert provider.get_logprobs("a", " b") == pytest.approx(truth("a", " b"))
    assert waits == [0.5, 1.0, 2.0, 0.0]
    assert provider.calls == len(server.asked) == 5


def test_trouble_that_does_not_pass(server, provider, waits):
    server.trouble = [fails(500, "the roof is on fire")] * 9
    with pytest.raises(RemoteError, match=r"status 500 \(the roof is on fire\), after 5 attempts") as caught:
        provider.get_logprobs("a", " b")
    assert caught.value.status == 500
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_waits_end_at_a_minute(server, waits):
    server.trouble = [fails(500)] * 10
    VLLMProvider(server.url, "tiny", retries=10, sleep=waits.append).get_logprobs("a", " b")
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_endpoint_that_asks_for_patience(server, provider, waits):
    server.trouble = [fails(429, Retry_After="7.5"), fails(429, Retry_After=formatdate(time.time() + 30)), fails(429, Retry_After="soon")]
    provider.get_logprobs("a", " b")
    assert waits[0] == 7.5
    assert 25 < waits[1] <= 30
    assert waits[2] == 2.0
    server.trouble = [fails(429, Retry_After="3600")]
    with pytest.raises(RemoteError, match="after 1 attempt, and asks to wait for 3600 s"):
        provider.get_logprobs("a", " c")
    assert len(waits) == 3


def test_a_slow_endpoint(server, waits):
    done = threading.Event()
    provider = VLLMProvider(server.url, "tiny", timeout=0.05, retries=1, sleep=waits.append)
    server.trouble = [lambda handler: done.wait(5)] * 2
    with pytest.raises(RemoteError, match=r"does not answer within 0.05 s, after 2 attempts"):
        provider.get_logprobs("a", " b")
    done.set()
    assert waits == [0.5]


def test_an_answer_in_drops(server, waits):
    done = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
            if done.wait(0.02):
                return

    server.trouble = [drip]
    with pytest.raises(RemoteError, match=r"does not answer within 0.1 s"):
        VLLMProvider(server.url, "tiny", timeout=0.1, retries=0).get_logprobs("a", " b")
    done.set()


def test_a_connection_that_breaks(server, provider, waits):
    def hang_up(handler):
        handler.close_connection = True

    def break_off(handler):
        handler.send(200, b'{"choices": [', Content_Length="1000")
        handler.close_connection = True

    server.trouble = [hang_up, break_off]
    assert provider.get_logprobs("a", " b") == pytest.approx(truth("a", " b"))
    assert len(waits) == 2


def test_nobody_there(server, waits):
    url = server.url
    server.server_close()
    for ask in (
        lambda: VLLMProvider(url, retries=1, sleep=waits.append),
        lambda: VLLMProvider(url, "a", retries=0).get_logprobs("a", " b"),
    ):
        with pytest.raises(RemoteError, match=r"/(models|completions) cannot be reached .*after [12] attempt"):
            ask()
    assert waits == [0.5]


@pytest.mark.parametrize(
    "body",
    [b"<html>welcome</html>", b"{", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"logprobs": {"tokens": 3}}]}', b'{"choices": [7]}'],
)
def test_an_answer_of_another_kind(server, provider, waits, body):
    server.trouble = [lambda handler: handler.send(200, body)]
    with pytest.raises(RemoteError, match="not as OpenAI-compatible endpoints do"):
        provider.get_logprobs("a", " b")
    assert not waits
    server.trouble = [lambda handler: handler.send(200, body)]
    with pytest.raises(RemoteError, match="not as OpenAI-compatible endpoints do"):
        provider.generate("a")


def test_a_model_that_is_not_there(server):
    with pytest.raises(RemoteError, match=r"'big', and those there are 'tiny', 'other': give one as model_name") as caught:
        VLLMProvider(server.url, "big").get_logprobs("a", " b")
    assert caught.value.status == 404


@pytest.mark.parametrize("name", [None, "tiny"])
def test_an_address_that_lacks_its_end(server, name):
    with pytest.raises(RemoteError, match="does api_url end as it should, mostly with /v1"):
        VLLMProvider(server.url.removesuffix("/v1") + "/v2", name).generate("a") if name is None else VLLMProvider(server.url + "/v2")


def test_a_refusal_says_why(server, provider, waits):
    server.trouble = [fails(413, "at most 8 tokens")]
    with pytest.raises(RemoteError, match=r"refuses with status 413 \(at most 8 tokens\)"):
        provider.get_logprobs("a", " b")
    server.trouble = [lambda handler: handler.send(418, b"short and stout")]
    with pytest.raises(RemoteError, match=r"refuses with status 418 \(short and stout\)"):
        provider.get_logprobs("a", " b")
    assert not waits


def test_nothing_goes_to_another_address(server, provider):
    server.trouble = [lambda handler: handler.send(302, b"", Location=server.url + "/models")]
    with pytest.raises(RemoteError, match=r"it has moved to http.*: give that as api_url"):
        provider.generate("a")
    assert len(server.headers) == 1


def test_the_key_is_needed_and_never_shown(server, monkeypatch):
    server.key = KEY
    with pytest.raises(RemoteError, match=r"status 401.*give api_key, or set OPENAI_API_KEY"):
        VLLMProvider(server.url)
    for good in (VLLMProvider(server.url, api_key=KEY), monkeypatch.setenv("OPENAI_API_KEY", KEY) or VLLMProvider(server.url)):
        good.get_logprobs("a", " b")
        assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(good) + repr(good._endpoint)
    server.key = "another"
    with pytest.raises(RemoteError, match=r"Bearer \*\*\*.*the API key is wrong") as caught:
        VLLMProvider(server.url)
    assert KEY not in str(caught.value)
    server.trouble = [lambda handler: handler.send(200, f"your key is {KEY}".encode())]
    with pytest.raises(RemoteError) as caught:
        good.generate("a")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "http://",
        "http://[::1/v1",
        "http://host:many/v1",
        "https://me:secret@host/v1",
        "https://host/v1?key=secret",
    ],
)
def test_addresses(url):
    with pytest.raises(OptionError, match="api_url") as caught:
        VLLMProvider(url, "tiny")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret\nnext", "sk-secrët"])
def test_keys_that_no_header_can_have(key):
    with pytest.raises(OptionError, match="characters that no header can have") as caught:
        VLLMProvider("http://localhost/v1", "tiny", api_key=key)
    assert "secr" not in str(caught.value)
    assert VLLMProvider("http://localhost/v1", "tiny", api_key=f"{KEY}\n")._endpoint.key == KEY


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"max_calls": -1}, {"concurrent": 0}, {"timeout": math.nan}])
def test_options_out_of_range(options):
    with pytest.raises(OptionError, match=f"{next(iter(options))} is"):
        VLLMProvider("http://localhost/v1", "tiny", **options)


def test_the_error_can_be_sent_on():
    error = RemoteError("no", {"a": (1.0,)}, 500)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.answers, again.status) == ("no", {"a": (1.0,)}, 500)
    assert isinstance(error, PellucidError)
    assert isinstance(error, ConnectionError)


# What is paid for.


def test_nothing_is_asked_twice(server, provider):
    for _ in range(3):
        provider.get_logprobs("a", " b")
        provider.get_logprobs("a", " b", Tokenizer())
    assert len(server.asked) == 1
    provider.get_logprobs("a", " c")
    assert len(server.asked) == 2


def test_nothing_is_asked_twice_at_a_time(server, provider):
    provider.get_logprobs("z", " z")
    released = threading.Event()
    server.trouble = [lambda handler: (released.wait(5), handler.complete(server.asked[-1]))]
    found = []
    threads = [threading.Thread(target=lambda: found.append(provider.get_logprobs("a", " b"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    released.set()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 2
    assert found == [provider.get_logprobs("a", " b")] * 4


def test_a_failure_is_not_remembered(server, waits):
    provider = VLLMProvider(server.url, "tiny", retries=0)
    server.trouble = [fails(500)]
    with pytest.raises(RemoteError):
        provider.get_logprobs("a", " b")
    assert provider.get_logprobs("a", " b") == pytest.approx(truth("a", " b"))


def test_the_budget(server, waits):
    provider = VLLMProvider(server.url, max_calls=2, sleep=waits.append)
    server.trouble = [fails(500)] * 4
    with pytest.raises(RemoteError, match=r"all max_calls=2 have been made; set the provider's max_calls higher"):
        provider.get_logprobs("a", " b")
    assert provider.calls == len(server.asked) == 2
    server.trouble.clear()
    provider.max_calls = 3
    assert provider.get_logprobs("a", " b") == pytest.approx(truth("a", " b"))
    assert provider.calls == 3


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_a_run_that_fails_keeps_what_it_has_and_goes_on_from_there(server, at_a_time):
    provider = VLLMProvider(server.url, "tiny", max_calls=5, concurrent=at_a_time)
    view = view_of(provider)
    with pytest.raises(RemoteError, match=r"5 prompts were answered before \(3 of these 5\)") as caught:
        feature_ablation(view, ZEROS)
    assert len(caught.value.answers) == 5
    for prompt, found in caught.value.answers.items():
        assert found == pytest.approx(truth(prompt, TARGET))
    provider.max_calls = None
    again = feature_ablation(view_of(provider), ZEROS)  # a new view: what was paid for is known to the provider
    assert provider.calls == len(server.asked) == 2 + len(WORDS)
    torch.testing.assert_close(again.values[0], feature_ablation(view_of(VLLMProvider(server.url)), ZEROS).values[0])


def test_a_providers_own_failure_in_the_middle(server):
    class Moody(RemoteLLMProvider):
        def generate(self, prompt, **gen_args):
            return ""

        def get_logprobs(self, input_prompt, target_str, tokenizer=None):
            if "old" not in input_prompt:
                raise KeyError("not today")
            return [-1.0, -2.0]

    with pytest.raises(RemoteError, match=r"not today.*1 prompts were answered") as caught:
        feature_ablation(view_of(Moody()), ZEROS)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.answers == {prompt_of([1] * 5): (-1.0, -2.0)}


def test_after_a_failure_nothing_more_is_asked():
    class Broken(RemoteLLMProvider):
        concurrent, asked = 2, 0

        def generate(self, prompt, **gen_args):
            return ""

        def get_logprobs(self, input_prompt, target_str, tokenizer=None):
            self.asked += 1
            if "old" not in input_prompt:
                raise KeyError("not today")
            time.sleep(0.03)
            return [-1.0]

    provider, rows = Broken(), torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    with pytest.raises(RemoteError, match="not today"):
        view_of(provider).score((rows,))
    assert provider.asked < len(rows) / 2


def test_requests_go_out_together(server):
    provider = VLLMProvider(server.url, "tiny", concurrent=4)
    view = view_of(provider)
    view.score(view.features)
    server.meeting = threading.Barrier(4, timeout=5)  # breaks, and fails the requests, unless four are there at once
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))[:16]
    found = view.score((rows,))
    assert server.most_inside == 4
    expected = [truth(prompt_of(row), TARGET) for row in rows.tolist()]
    np.testing.assert_allclose(found.T, expected, rtol=1e-6)


def test_the_way_is_found_by_one_of_many(server):
    server.ways["echo"] = "ignored"
    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))[:12]
    view_of(VLLMProvider(server.url, "tiny", concurrent=6)).score((rows,))
    assert len(server.asked) == 13
    assert sum("echo" in body for body in server.asked) == 1


def test_a_tokenizer_has_one_thread_at_a_time(server):
    class Busy(Tokenizer):
        inside = 0

        def encode(self, text, **options):
            self.inside += 1
            time.sleep(0.001)
            assert self.inside == 1, "already borrowed"
            found = super().encode(text, **options)
            self.inside -= 1
            return found

    rows = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))[:12]
    view_of(VLLMProvider(server.url, "tiny", concurrent=6), tokenizer=Busy()).score((rows,))
    assert len(server.asked) == 12


def test_one_at_a_time_stays_in_this_thread():
    class Here(RemoteLLMProvider):
        def generate(self, prompt, **gen_args):
            return ""

        def get_logprobs(self, input_prompt, target_str, tokenizer=None):
            assert threading.current_thread() is threading.main_thread()
            return [-float(len(input_prompt))]

    assert feature_ablation(view_of(Here()), ZEROS).values[0].tolist() == [[[1.0, 1.0, 1.0, 0.0, 0.0]]]


def test_different_numbers_of_tokens():
    class Odd(RemoteLLMProvider):
        def generate(self, prompt, **gen_args):
            return ""

        def get_logprobs(self, input_prompt, target_str, tokenizer=None):
            return [-1.0] * (1 + input_prompt.count("some"))

    with pytest.raises(RemoteError, match=r"6 tokens after .* and 1 after other prompts"):
        feature_ablation(view_of(Odd()), ZEROS)


# The view, and the methods over it.


def of_row(row):
    return np.array(truth(prompt_of(row), TARGET))


def slow_shapley():
    """The mean over all orders of what a word adds when it comes."""
    values = np.zeros((len(split(TARGET)), len(WORDS)))
    score = {row: of_row(row) for row in itertools.product([0, 1], repeat=len(WORDS))}
    for order in itertools.permutations(range(len(WORDS))):
        row = [0] * len(WORDS)
        for unit in order:
            before = score[tuple(row)]
            row[unit] = 1
            values[:, unit] += score[tuple(row)] - before
    return values / math.factorial(len(WORDS))


def test_shapley_values_and_what_they_cost(server, provider):
    found = shapley(view_of(provider), ZEROS, run=Run(progress=False))
    np.testing.assert_allclose(found.values[0][:, 0], slow_shapley(), rtol=1e-9, atol=1e-12)
    assert provider.calls == len(server.asked) == len(set(server.prompts)) == 2 ** len(WORDS)
    assert found.values[0].dtype == torch.float64


def test_ablation_and_what_is_read(server, provider):
    falls = np.stack([of_row([1] * 5) - of_row([int(i != unit) for i in range(5)]) for unit in range(5)], 1)
    found = feature_ablation(view_of(provider), ZEROS)
    np.testing.assert_allclose(found.values[0][:, 0], falls, rtol=1e-9, atol=1e-12)
    assert provider.calls == 2 + len(WORDS)
    whole = feature_ablation(view_of(provider, reads="both"), ZEROS).values[0][:, 0]
    np.testing.assert_allclose(whole, np.concatenate([falls.sum(0)[None], falls]), rtol=1e-9, atol=1e-12)
    view = view_of(provider, reads="both")
    for number, alone in enumerate(view.targets()):
        torch.testing.assert_close(feature_ablation(alone, ZEROS).values[0][0, 0], whole[number])
    assert provider.calls == 2 + len(WORDS)


def test_lime_is_exact_where_the_model_adds_up():
    weights = np.array([2.0, -1.0, 0.5, 3.0, 0.0])

    class Linear(RemoteLLMProvider):
        def generate(self, prompt, **gen_args):
            return ""

        def get_logprobs(self, input_prompt, target_str, tokenizer=None):
            there = [word == own for word, own in zip(input_prompt.split(), WORDS, strict=True)]
            return [float(weights @ there) - 9, -1.0]

    found = lime(view_of(Linear(), reads="sequence"), ZEROS, samples=40, surrogate="linear", seed=0)
    np.testing.assert_allclose(found.values[0][0, 0], weights, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_have_the_points_dtype_and_a_batch_is_a_loop(provider, dtype):
    view = view_of(provider)
    rows = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 1, 0]], dtype=dtype)
    found = view.score((rows,))
    assert found.dtype == dtype
    assert found.shape == (3, 3)
    torch.testing.assert_close(found, torch.cat([view.score((row[None],)) for row in rows], 1))
    assert provider.calls == 2
    assert view.some([0, 0]).size == 2
    assert view.moved((rows,)).size == 3
    assert list(view.readings()) == [view]


def test_an_endpoint_gives_no_gradients(provider):
    with pytest.raises(OptionError, match="gives no gradients; use a method that perturbs"):
        integrated_gradients(view_of(provider), ZEROS)


# Captum's names.


@pytest.fixture
def sentence():
    attr = pytest.importorskip("captum.attr")
    return attr.TextTemplateInput("{} {} {} {} {}", WORDS, baselines=["some"] * 5)


def test_arguments_are_captums():
    import inspect

    captum = pytest.importorskip("captum.attr")
    for ours, theirs in ((RemoteLLMAttribution, captum.RemoteLLMAttribution), (VLLMProvider, captum.VLLMProvider)):
        for name in ("__init__", "attribute", "generate", "get_logprobs"):
            if hasattr(theirs, name):
                known = inspect.signature(getattr(theirs, name)).parameters
                own = inspect.signature(getattr(ours, name)).parameters
                usual = [p for p in own.values() if p.kind is not p.KEYWORD_ONLY and p.name != "skip_tokens"]
                assert [(p.name, p.default) for p in usual] == [(p.name, p.default) for p in known.values()]


@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
@pytest.mark.parametrize("method", ["FeatureAblation", "ShapleyValues"])
def test_values_are_captums(provider, sentence, method, attr_target):
    captum = pytest.importorskip("captum.attr")
    tokenizer, ours = Tokenizer(), {"FeatureAblation": FeatureAblation, "ShapleyValues": ShapleyValues}[method]
    placeholder = captum.RemoteLLMAttribution.placeholder_model
    theirs = captum.RemoteLLMAttribution(getattr(captum, method)(placeholder), tokenizer, provider, attr_target).attribute(sentence, TARGET)
    found = RemoteLLMAttribution(ours(RemoteLLMAttribution.placeholder_model), tokenizer, provider, attr_target).attribute(sentence, TARGET)
    torch.testing.assert_close(found.seq_attr, theirs.seq_attr, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.token_attr, theirs.token_attr, rtol=1e-4, atol=1e-5)
    assert found.input_tokens == theirs.input_tokens == WORDS
    assert found.output_tokens == theirs.output_tokens == ["red", "and", "low"]
    torch.testing.assert_close(found.output_probs, torch.tensor(of_row([1] * 5)).exp().float())


@pytest.mark.parametrize(("method", "options"), [(KernelShap, {"n_samples": 40}), (ShapleyValueSampling, {}), (Lime, {"n_samples": 60})])
def test_the_other_methods(server, provider, sentence, method, options):
    found = RemoteLLMAttribution(method(RemoteLLMAttribution.placeholder_model), Tokenizer(), provider).attribute(
        sentence, TARGET, **options
    )
    assert found.seq_attr.shape == (5,)
    assert found.token_attr.shape == (3, 5)
    if method is not Lime:  # there are fewer coalitions than were asked for: it is exact
        np.testing.assert_allclose(found.seq_attr, slow_shapley().sum(0), rtol=1e-4)
        np.testing.assert_allclose(found.token_attr, slow_shapley(), rtol=1e-4, atol=1e-6)
    assert len(server.asked) == len(set(server.prompts)) <= 2 ** len(WORDS)


def test_trying_how_rows_share_a_call_costs_no_question(server, provider, sentence):
    RemoteLLMAttribution(Lime(RemoteLLMAttribution.placeholder_model), Tokenizer(), provider).attribute(sentence, TARGET, n_samples=2)
    assert len(server.asked) <= 3
    assert prompt_of([0] * 5) not in server.prompts


def test_a_generated_target(server, provider, sentence):
    explained = RemoteLLMAttribution(FeatureAblation(RemoteLLMAttribution.placeholder_model), Tokenizer(), provider)
    found = explained.attribute(sentence, gen_args={"max_new_tokens": 2, "do_sample": False})
    assert found.output_tokens == ["the", "the"]
    np.testing.assert_allclose(
        found.token_attr[:, 0],
        np.subtract(truth("the old sun sets late", " the the"), truth("some old sun sets late", " the the")),
        rtol=1e-5,
    )
    by_ids = explained.attribute(sentence, torch.tensor(explained.tokenizer.encode(" the the", add_special_tokens=False)))
    torch.testing.assert_close(by_ids.token_attr, found.token_attr)
    with pytest.raises(OptionError, match="gen_args are for generating"):
        explained.attribute(sentence, TARGET, gen_args={"max_new_tokens": 2})


def test_token_inputs_go_out_as_text_with_one_beginning(server, provider):
    captum = pytest.importorskip("captum.attr")
    tokenizer = Tokenizer()
    tokenizer.encode(" some")
    text = captum.TextTokenInput("the old sun", tokenizer, baselines=tokenizer.known.index(" some"), skip_tokens=[0])
    explained = RemoteLLMAttribution(FeatureAblation(RemoteLLMAttribution.placeholder_model), tokenizer, provider)
    found = explained.attribute(text, TARGET)
    assert not any("<s>" in prompt for prompt in server.prompts)
    falls = np.subtract(truth("the old sun", TARGET), truth("the some sun", TARGET))
    np.testing.assert_allclose(found.token_attr[:, 1], falls, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
def test_every_new_prompt_is_told(provider, sentence, attr_target):
    told = []
    explained = RemoteLLMAttribution(FeatureAblation(RemoteLLMAttribution.placeholder_model), Tokenizer(), provider, attr_target)
    explained.attribute(sentence, TARGET, _inspect_forward=lambda *said: told.append(said))
    assert len(told) == len({prompt for prompt, _, _ in told}) == 2 + len(WORDS)
    for prompt, target, probabilities in told:  # as Captum has it, whatever is attributed
        expected = truth(prompt, target)
        assert probabilities == pytest.approx(list(np.exp([sum(expected), *expected])))


def test_two_targets_are_compared(provider, sentence):
    other = " red and gone"
    found = RemoteLLMAttribution(ShapleyValues(RemoteLLMAttribution.placeholder_model), Tokenizer(), provider).attribute(
        sentence, (TARGET, other)
    )
    whole = [sum(truth(prompt_of(row), TARGET)) - sum(truth(prompt_of(row), other)) for row in ([1] * 5, [0] * 5)]
    assert float(found.seq_attr.sum()) == pytest.approx(whole[0] - whole[1], rel=1e-4)
    assert found.token_attr is None


def test_what_the_facade_refuses(provider, sentence):
    placeholder = RemoteLLMAttribution.placeholder_model
    with pytest.raises(OptionError, match="does not take Saliency"):
        RemoteLLMAttribution(Saliency(placeholder), Tokenizer(), provider)
    with pytest.raises(OptionError, match="attr_target is 'odds'"):
        RemoteLLMAttribution(FeatureAblation(placeholder), Tokenizer(), provider, "odds")
    explained = RemoteLLMAttribution(FeatureAblation(placeholder), Tokenizer(), provider)
    with pytest.raises(OptionError, match="num_trials is 0"):
        explained.attribute(sentence, TARGET, num_trials=0)
    with pytest.raises(NotImplementedError):
        explained.attribute_future()
    with pytest.raises(TargetError, match="generates nothing"):
        explained.attribute(sentence, gen_args={"max_tokens": 0})


class StandInClient:
    """Of the `openai` package, which Captum's provider needs, the two calls that it makes."""

    def __init__(self, base_url, api_key):
        self.url = base_url
        self.completions = types.SimpleNamespace(create=self.create)

    def create(self, extra_body=None, **body):
        data = json.dumps({**body, **(extra_body or {})}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/completions", data)) as response:
            answer = json.load(response)
        return types.SimpleNamespace(choices=[types.SimpleNamespace(**choice) for choice in answer["choices"]])


def test_log_probabilities_are_captums(server, provider, monkeypatch):
    captum = pytest.importorskip("captum.attr")
    monkeypatch.setitem(sys.modules, "openai", types.SimpleNamespace(OpenAI=StandInClient))
    theirs = captum.VLLMProvider(server.url, "tiny")
    for prompt, target in (("the old sun is", " red and low"), ("it", "!"), ("the sun is ", "red")):
        assert provider.get_logprobs(prompt, target, Tokenizer()) == pytest.approx(theirs.get_logprobs(prompt, target, Tokenizer()))
    assert provider.generate("the sun", max_tokens=2) == theirs.generate("the sun", max_tokens=2)


def test_where_captum_counts_tokens_of_the_prompt_to_the_target(server, provider, monkeypatch):
    """A deliberate difference: the last two tokens of "the sunny day" are not those of "ny day"."""
    captum = pytest.importorskip("captum.attr")
    monkeypatch.setitem(sys.modules, "openai", types.SimpleNamespace(OpenAI=StandInClient))
    silent = captum.VLLMProvider(server.url, "tiny").get_logprobs("the sun", "ny day", Tokenizer())
    assert silent == pytest.approx(logprobs_of(["<s>", *split("the sunny day")])[-2:])
    assert silent != pytest.approx(truth("the sun", "ny day"))
    with pytest.raises(InputError):
        provider.get_logprobs("the sun", "ny day", Tokenizer())


def test_an_occlusion_is_an_ablation_too(provider, sentence):
    method = Occlusion(RemoteLLMAttribution.placeholder_model)
    found = RemoteLLMAttribution(method, Tokenizer(), provider).attribute(sentence, TARGET, sliding_window_shapes=(1,))
    single = RemoteLLMAttribution(FeatureAblation(method.forward_func), Tokenizer(), provider).attribute(sentence, TARGET)
    torch.testing.assert_close(found.seq_attr, single.seq_attr)
