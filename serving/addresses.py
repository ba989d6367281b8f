"""Addresses that clients name are reached only where anyone may reach: no loopback, no private network, no metadata."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import httpx

from serving.errors import RequestError

_MOST_REDIRECTS = 3
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_WHOLE_SECONDS = 60.0
_PORTS = {"http": 80, "https": 443}


class AddressRefusedError(Exception):
    """It is no http address, or leads to where a client may not send us."""


class _TooManyBytesError(Exception):
    """More than allowed."""


async def fetch(url: str, *, most_bytes: int, allow_private: bool = False, param: str = "input_reference") -> bytes:
    """What lies at an http, https or data address; up to three redirects are followed, and checked like the first.

    Raises RequestError 400 url_refused for an address that may not be asked, 400 reference_unreadable without a success
    in time, 413 input_too_large.
    """
    try:
        if url[:5].lower() == "data:":
            return _embedded(url, most_bytes=most_bytes)
        async with asyncio.timeout(_WHOLE_SECONDS):
            return await _downloaded(url, most_bytes=most_bytes, allow_private=allow_private)
    except AddressRefusedError as error:
        raise RequestError(400, "url_refused", f"{param}: {error}.", param=param) from error
    except _TooManyBytesError as error:
        message = f"{param}: what lies at the address has more than {most_bytes} bytes."
        raise RequestError(413, "input_too_large", message, param=param) from error
    except (httpx.HTTPError, OSError, ValueError) as error:  # TimeoutError is an OSError
        message = f"{param}: the address cannot be read: {str(error) or 'no answer in time'}."
        raise RequestError(400, "reference_unreadable", message, param=param) from error


async def check_address(url: str, *, allow_private: bool = False, param: str = "webhook.url") -> None:
    """Whether an http or https address may be asked. Raises RequestError 400 url_refused."""
    try:
        await _resolved(url, allow_private=allow_private)
    except AddressRefusedError as error:
        raise RequestError(400, "url_refused", f"{param}: {error}.", param=param) from error


@asynccontextmanager
async def opened(
    method: str,
    url: str,
    *,
    allow_private: bool = False,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[httpx.Response]:
    """One request without redirects, over a connection to the very IP address that was checked; the body is not read.

    A name server that answers differently the next time (DNS rebinding) changes nothing, and neither do proxies of the
    environment. Raises AddressRefusedError, httpx.HTTPError.
    """
    place = await _resolved(url, allow_private=allow_private)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_TIMEOUT) as client:
        asked = client.build_request(
            method,
            place.url.copy_with(host=place.address),
            content=content,
            headers={"accept-encoding": "identity", **(headers or {}), "host": place.url.netloc.decode()},
            # The certificate has to be the name's.
            extensions={"sni_hostname": place.url.host},
        )
        response = await client.send(asked, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


@dataclass(frozen=True)
class _Place:
    url: httpx.URL
    address: str
    """IP address of the URL's host."""


async def _resolved(url: str, *, allow_private: bool) -> _Place:
    """Raises AddressRefusedError when any address of the name is one that not everyone may reach."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefusedError(f"the address is malformed: {error}") from error
    if parts.scheme not in _PORTS or not parts.host:
        raise AddressRefusedError("the address must begin with http:// or https:// and name a host")
    if parts.userinfo:
        raise AddressRefusedError("the address must not carry a user name or a password")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.host, parts.port or _PORTS[parts.scheme], type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise AddressRefusedError(f"the host {parts.host!r} is not known") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(map(is_public, addresses)):
        raise AddressRefusedError(f"the host {parts.host!r} is not on the public internet")
    return _Place(parts, addresses[0])


def is_public(address: str) -> bool:
    """Whether an IP address is one that everyone may reach (IANA's registries of special addresses).

    IPv6 addresses that carry an IPv4 address (mapped, NAT64, 6to4, Teredo) are none: they lead to what they carry.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_multicast or ip.is_reserved or not ip.is_global:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return not (ip.is_site_local or ip.ipv4_mapped or ip.sixtofour or ip.teredo)
    return ip not in _SPECIAL


# Of Azure: its virtual machines reach the host's services there, although the address is registered as public.
_SPECIAL = {ipaddress.IPv4Address("168.63.129.16")}


async def _downloaded(url: str, *, most_bytes: int, allow_private: bool) -> bytes:
    for _ in range(_MOST_REDIRECTS + 1):
        async with opened("GET", url, allow_private=allow_private) as response:
            if response.has_redirect_location:
                url = str(httpx.URL(url).join(response.headers["location"]))
                continue
            if not response.is_success:
                raise ValueError(f"HTTP status {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("it comes compressed although that was not asked for")
            return await _body(response, most_bytes)
    raise ValueError(f"more than {_MOST_REDIRECTS} redirects")


async def _body(response: httpx.Response, most_bytes: int) -> bytes:
    if int(response.headers.get("content-length", 0)) > most_bytes:
        raise _TooManyBytesError
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > most_bytes:
            raise _TooManyBytesError
    return bytes(data)


def _embedded(url: str, *, most_bytes: int) -> bytes:
    """The bytes of a data address (RFC 2397). Raises ValueError."""
    head, comma, body = url.partition(",")
    if not comma:
        raise ValueError("a data address needs a comma before its data")
    if len(body) > most_bytes * 3:  # each byte may be written as %xx
        raise _TooManyBytesError
    try:
        raw = unquote_to_bytes(body)
        data = base64.b64decode(raw, validate=True) if head.lower().endswith(";base64") else raw
    except binascii.Error as error:
        raise ValueError(f"the data is not base64: {error}") from error
    if len(data) > most_bytes:
        raise _TooManyBytesError
    return data
