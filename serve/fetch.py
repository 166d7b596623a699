"""Images by address: only from allowed hosts, only public addresses, no redirects, bounded in size and time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx

from serve.problems import RequestRefusedError
from serve.settings import UrlSettings

FIELD = "image.url"


def _refuse(detail: str) -> RequestRefusedError:
    return RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, field=FIELD)


async def resolve_public(host: str, port: int) -> str:
    """One address of `host`, all of whose addresses are public; the connection is made to it, not to the name again.

    Raises:
        RequestRefusedError: the name does not resolve, or to a private, loopback, link-local or reserved address.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refuse(f"the host {host!r} does not resolve") from error
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    if not addresses or not all(address.is_global and not address.is_multicast for address in addresses):
        raise _refuse(f"the host {host!r} resolves to an address that is not public")
    return str(addresses[0])


async def fetch_image(url: str, settings: UrlSettings, max_bytes: int) -> bytes:
    """The bytes behind `url`.

    Raises:
        RequestRefusedError: addresses are off, the host is not allowed, or the answer is no image of a fitting size.
    """
    if not settings.enabled:
        raise _refuse("this server does not fetch images by address; send the image itself")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _refuse("this is not an address") from error
    if parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise _refuse("expected an http or https address without credentials")
    if host not in settings.allowed_hosts:
        raise _refuse(f"the host {host!r} is not one that this server may fetch from")
    address = await resolve_public(host, port)
    literal = f"[{address}]" if ":" in address else address
    target = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
    try:
        # A proxy from the environment would connect to the name by itself, past the check of its address.
        connection = httpx.AsyncClient(follow_redirects=False, trust_env=False)
        async with asyncio.timeout(settings.timeout_s), connection as client:
            request = client.build_request(
                "GET", target, headers={"Host": parts.netloc}, extensions={"sni_hostname": host}
            )
            return await _read(await client.send(request, stream=True), max_bytes)
    except (httpx.HTTPError, TimeoutError) as error:
        raise _refuse(f"the image could not be fetched: {type(error).__name__}") from error


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    try:
        if response.status_code != HTTPStatus.OK:
            raise _refuse(f"the address answered with status {response.status_code}; redirects are not followed")
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > max_bytes:
                raise _refuse(f"the image is larger than {max_bytes} bytes")
        return bytes(body)
    finally:
        await response.aclose()
