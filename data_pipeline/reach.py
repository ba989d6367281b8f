"""An address that a manifest names, and where the manifest lies, become the reason not to fetch it, if there is one.

A list of addresses from elsewhere must not make this machine read what only this machine can: cloud metadata, services
in the local network, its own files. Names are looked up once, before fetching; a host whose name leads elsewhere a
moment later, or that redirects, is not caught: where that matters, fetch through a proxy.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from urllib.parse import urlsplit

_WEB = ("http", "https")


def refusal(address: str, *, named_by: str) -> str:
    """Why the address is not to be fetched; empty where it is. `named_by`: URI of the folder the manifest lies in."""
    target, manifest = urlsplit(address), urlsplit(named_by)
    if target.scheme in ("", "file") and manifest.scheme in _WEB:
        return "a manifest from the web may not name a local file"
    if target.scheme not in _WEB or (manifest.scheme in _WEB and target.netloc == manifest.netloc):
        return ""
    if target.hostname and not _public(target.hostname):
        return f"{target.hostname} is not on the public internet (decode.private_hosts lets manifests name it)"
    return ""


@lru_cache(maxsize=4096)
def _public(host: str) -> bool:
    """Whether all addresses of a host are; one that is not known will fail by itself."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return True
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_global for address in found)
