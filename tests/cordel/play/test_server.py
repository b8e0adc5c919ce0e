"""The page's server on a free port of loopback, with models of a few lines."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvicorn

from cordel.evaluation.sampling import Draw, Prompt
from cordel.play import server
from cordel.play.server import application, is_own_host, language_of
from cordel.runtime.errors import EnvironmentProblem
from tests.cordel.play.test_session import PARAMS, Bytes, Fixed, drawn

JSON = {"Content-Type": "application/json"}
ASKED = {"text": "Era", "models": ["v1"], "instruction": False, "temperature": 1, "top_p": 1}
ASKED |= {"seed": 7, "max_new_tokens": 3}


LONG = 3000  # draws of the model that goes on: six seconds


class Endless(Bytes):
    """Goes on until somebody stops it, and says so then."""

    def __init__(self) -> None:
        """Count draws."""
        super().__init__()
        self.drawn, self.running, self.most = 0, 0, 0
        self.stopped = threading.Event()

    def draws(self, *_: Any) -> Iterator[Draw]:
        """Yield one id after the other, slowly."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while self.drawn < LONG:
                self.drawn += 1
                time.sleep(0.002)
                yield from drawn(3)
        finally:
            self.running -= 1
            self.stopped.set()


class Models(Fixed):
    """Models that a page can list."""

    def entries(self) -> Any:
        """Return all."""
        return self.chosen([])


@pytest.fixture
def endless() -> Endless:
    """Return the model that goes on."""
    return Endless()


@pytest.fixture
def port(endless: Endless) -> Iterator[int]:
    """Return the port of a running server."""
    voices: Any = Models(v1=Bytes(3, 1, 2), slow=endless)
    config = uvicorn.Config(application(voices, with_prompt()), port=0, log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.005)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join()


def with_prompt() -> Any:
    """Return settings whose first standard prompt has the seed 101."""
    return replace(PARAMS, prompts=(Prompt(seed=101, text="Era"),))


def ask(
    port: int, path: str, body: Any = None, **headers: str
) -> tuple[int, str, http.client.HTTPResponse]:
    """Return status, text and headers of a request; with a body it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    sent = (JSON if data is not None else {}) | names
    connection.request("GET" if data is None else "POST", path, data, sent)
    response = connection.getresponse()
    return response.status, response.read().decode(), response


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_continuation_streams_as_lines(port: int) -> None:
    status, text, response = ask(port, "/api/generate", ASKED)
    assert status == 200
    found = events(text)
    assert [event["type"] for event in found] == [
        *("asked", "start", "token", "token", "end", "done"),
    ]
    assert [e["text"] for e in found if e["type"] == "token"] == ["a", "ã"]
    assert response.getheader("Transfer-Encoding") == "chunked"


def test_models_are_listed(port: int) -> None:
    status, text, _ = ask(port, "/api/models")
    assert status == 200
    names = [model["name"] for model in json.loads(text)]
    assert names == ["v1", "slow"]


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("pt-BR,pt;q=0.9,en;q=0.8", "pt"),
        ("de, en;q=0.5", "en"),
        ("", "en"),
        ("en;q=x,pt", "pt"),
        ("pt,en", "pt"),
    ],
)
def test_the_page_comes_in_the_browsers_language(accepted: str, language: str, port: int) -> None:
    assert language_of(accepted) == language
    status, text, response = ask(port, "/", Accept_Language=accepted)
    assert status == 200
    assert f'<html lang="{language}">' in text
    assert "{{" not in text
    assert '"seed": 101' in text
    policy = response.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe" not in policy


def test_the_page_names_nobody_else(port: int) -> None:
    _, text, _ = ask(port, "/")
    assert "://" not in text
    assert "innerHTML" not in text
    assert text.count("<script nonce=") == text.count("<script") == 1


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "evil.example"}, "the host 'evil.example' is not this machine's"),
        ({"Host": "evil.example:8765"}, "is not this machine's"),
        ({"Host": "10.0.0.7"}, "is not this machine's"),
        ({"Origin": "http://evil.example"}, "the origin 'http://evil.example' is another page"),
        ({"Origin": "null"}, "the origin 'null' is another page"),
        ({"Content_Type": "text/plain"}, "a request must be JSON"),
    ],
)
def test_other_pages_are_refused(headers: dict[str, str], message: str, port: int) -> None:
    status, text, _ = ask(port, "/api/generate", ASKED, **headers)
    assert status == 403
    assert message in json.loads(text)["error"]


def test_the_page_itself_is_not(port: int) -> None:
    status, _, _ = ask(port, "/api/generate", ASKED, Origin=f"http://127.0.0.1:{port}")
    assert status == 200


@pytest.mark.parametrize(
    ("named", "host", "own"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("LOCALHOST:8765", "127.0.0.1", True),
        ("[::1]:8765", "::1", True),
        ("192.168.0.9:8765", "127.0.0.1", False),
        ("192.168.0.9:8765", "0.0.0.0", True),  # noqa: S104
        ("meu-pc:8765", "meu-pc", True),
        ("127.0.0.1.evil.example", "0.0.0.0", False),  # noqa: S104
        ("", "127.0.0.1", False),
    ],
)
def test_an_address_is_no_rebound_name(named: str, host: str, own: bool) -> None:
    assert is_own_host(named, host) is own


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b" " * 1_000_001, "over 1,000,000 bytes"),
        ({**ASKED, "text": ""}, "the prompt is empty"),
        ({**ASKED, "temperature": "1"}, "'temperature' is '1', expected float"),
        ({**ASKED, "models": "v1"}, "'models' is 'v1', expected a list"),
        ({**ASKED, "nada": 1}, "unknown key 'nada'"),
        ({"text": "Era"}, "missing key 'models'"),
    ],
)
def test_a_request_that_is_none_is_refused(body: Any, message: str, port: int) -> None:
    status, text, _ = ask(port, "/api/generate", body)
    assert status == 400
    assert message in json.loads(text)["error"]


def begun(port: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask the model that goes on, and read until it has drawn."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(
        "POST",
        "/api/generate",
        json.dumps({**ASKED, "models": ["slow"], "max_new_tokens": 400}),
        JSON,
    )
    response = connection.getresponse()
    while json.loads(response.readline())["type"] != "token":
        pass
    return connection, response


def test_a_page_that_goes_away_stops_its_computation(port: int, endless: Endless) -> None:
    connection, response = begun(port)
    response.close()
    connection.close()
    assert endless.stopped.wait(20)
    assert endless.drawn < LONG
    assert not endless.running
    assert ask(port, "/api/generate", ASKED)[0] == 200  # and the lock is free


def test_one_computation_runs_at_a_time(port: int, endless: Endless) -> None:
    connection, response = begun(port)
    other = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    other.request("POST", "/api/generate", json.dumps({**ASKED, "models": ["slow"]}), JSON)
    waiting = other.getresponse()
    assert json.loads(waiting.readline()) == {"type": "waiting"}
    response.close()
    connection.close()
    assert json.loads(waiting.readline())["type"] == "asked"
    waiting.close()
    other.close()
    assert endless.most == 1


def test_a_port_that_is_taken_is_named(port: int) -> None:
    voices: Any = Models()
    with pytest.raises(EnvironmentProblem, match=rf"127\.0\.0\.1:{port} cannot be listened on"):
        server.serve(voices, with_prompt(), host="127.0.0.1", port=port)
