"""Fetching by address: what it must refuse, and that it works against a real server where the rules allow it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serve import fetch
from serve.problems import RequestRefusedError
from serve.settings import UrlSettings

LOCAL = UrlSettings(allowed_hosts=("127.0.0.1", "localhost", "0.0.0.0", "::1", "169.254.169.254", "2130706433"))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield httpd.server_port
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def refused(url: str, settings: UrlSettings, max_bytes: int = 10_000) -> str:
    with pytest.raises(RequestRefusedError) as caught:
        asyncio.run(fetch.fetch_image(url, settings, max_bytes))
    assert caught.value.field == "image.url"
    return caught.value.detail


def test_addresses_are_off_by_default() -> None:
    assert "does not fetch" in refused("http://example.com/a.png", UrlSettings())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "http or https"),
        ("ftp://localhost/x", "http or https"),
        ("gopher://localhost/x", "http or https"),
        ("http://user:word@localhost/x", "credentials"),
        ("http://example.com/x", "may fetch from"),
        ("http://localhost.example.com/x", "may fetch from"),
        ("http://[::1", "not an address"),
        ("http://localhost:99999/", "not an address"),
        ("http:///x", "may fetch from"),
        ("", "http or https"),
    ],
)
def test_addresses_that_are_refused_before_any_connection(url: str, reason: str) -> None:
    assert reason in refused(url, LOCAL)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "2130706433"])
def test_an_allowed_name_that_resolves_to_a_private_address_is_refused(host: str, server: int) -> None:
    assert "not public" in refused(f"http://{host}:{server}/", LOCAL)


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a public name: the check of the address passes, the connection goes to this machine."""

    async def resolve(host: str, port: int) -> str:
        return "127.0.0.1"

    monkeypatch.setattr(fetch, "resolve_public", resolve)


@pytest.mark.usefixtures("public")
def test_the_bytes_come_back(server: int) -> None:
    data = asyncio.run(fetch.fetch_image(f"http://localhost:{server}/picture", LOCAL, 10_000))
    assert data == b"x" * 1000


@pytest.mark.usefixtures("public")
def test_redirects_are_not_followed(server: int) -> None:
    assert "302" in refused(f"http://localhost:{server}/moved", LOCAL)


@pytest.mark.usefixtures("public")
def test_a_body_past_the_limit_is_refused(server: int) -> None:
    assert "larger than 999 bytes" in refused(f"http://localhost:{server}/", LOCAL, max_bytes=999)
