"""Download a picture from a public web address, and from nowhere else.

A web address may come from a stranger: from a row of a file, or from a request to a server. So the name is resolved
once, every address that it stands for must be public, and the connection goes to the address that was checked, at
every redirect anew. Size, time and redirects are bounded.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mm1_mlx.errors import PictureError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[int, Any]  # a family and an address, as sockets take them

REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
ADVICE = "download the picture and give its path"
PIECE = 1 << 16  # bytes read at once
UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")  # the bytes decide
NAT64 = ipaddress.ip_network("64:ff9b::/96")
INSIDE = [  # what some versions of Python take for public
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own machine answers there
        "192.0.0.0/24",  # for protocols; Oracle's cloud tells its secrets there
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "100::/64",
        "3fff::/20",
        "5f00::/16",
    )
]


def is_public(address: Address) -> bool:
    """Tell whether an address, and an IPv4 address inside of it, is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or any(address in network for network in INSIDE)
    )


@dataclass(frozen=True)
class Fetcher:
    """Downloads pictures; calling it returns the bytes at a web address.

    Raises:
        PictureError: the address is not public, does not answer in time, or does not give a picture of a fair size.
    """

    max_bytes: int = 50_000_000
    max_seconds: float = 30.0  # for all: names, connections, redirects and content
    max_redirects: int = 3
    is_allowed: Callable[[Address], bool] = is_public
    tls: Callable[[], ssl.SSLContext] = field(default=ssl.create_default_context)

    def __call__(self, url: str) -> bytes:
        deadline = time.monotonic() + self.max_seconds
        here = url
        try:
            for _ in range(self.max_redirects + 1):
                found = self._get(here, deadline)
                if isinstance(found, bytes):
                    return found
                if here.lower().startswith("https:") and not found.lower().startswith("https:"):
                    raise PictureError("it leads from https to an address without encryption")
                here = found
            raise PictureError(f"it leads on more than {self.max_redirects} times")
        except PictureError as error:
            raise PictureError(f"{url} cannot be downloaded: {error}; {ADVICE}.") from None
        except ssl.SSLCertVerificationError as error:
            raise PictureError(
                f"{url} cannot be downloaded: its certificate is not valid ({error.verify_message}); {ADVICE}."
            ) from None
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            late = time.monotonic() >= deadline
            why = f"it took more than {self.max_seconds:g} s" if late else str(error) or type(error).__name__
            raise PictureError(f"{url} cannot be downloaded: {why}; {ADVICE}.") from None

    def _get(self, url: str, deadline: float) -> bytes | str:
        """Return the content, or the address to which this one leads."""
        parts = _split(url)
        host, port = _host_of(parts), parts.port or PORTS[parts.scheme]
        places = _resolve(host, port, deadline, self.is_allowed)
        connection = http.client.HTTPConnection(host, port)
        held: list[socket.socket] = []
        watch = threading.Timer(_left(deadline), _cut_off, [held])
        watch.daemon = True
        watch.start()  # each wait of a socket has its own timeout, so a slow drip would never end
        try:
            connection.sock = _connect(places, deadline, held)
            if parts.scheme == "https":
                connection.sock = self.tls().wrap_socket(
                    connection.sock, server_hostname=host, do_handshake_on_connect=False
                )
                held[:] = [connection.sock]
                connection.sock.do_handshake()
            return self._ask(connection, url, parts, deadline)
        finally:
            watch.cancel()
            connection.close()
            for connected in held:
                connected.close()

    def _ask(
        self, connection: http.client.HTTPConnection, url: str, parts: SplitResult, deadline: float
    ) -> bytes | str:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "mm1_mlx"}
        connection.request("GET", target, headers=headers)
        with contextlib.closing(connection.getresponse()) as response:
            return self._take(response, url, deadline)

    def _take(self, response: http.client.HTTPResponse, url: str, deadline: float) -> bytes | str:
        """Return the content of an answer, or the address to which it leads."""
        location = response.getheader("Location")
        if response.status in REDIRECTS and location:
            return urljoin(url, location)
        if response.status != 200:
            raise PictureError(f"the server answered {response.status} {response.reason}".rstrip())
        kind = (response.getheader("Content-Type") or "").split(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in UNKNOWN_TYPES:
            raise PictureError(f"it is {kind[:60]}, expected a picture")
        packing = (response.getheader("Content-Encoding") or "identity").strip().lower()
        if packing != "identity":
            raise PictureError(f"it comes packed with {packing[:20]}, which was not asked for")
        return self._read(response, deadline)

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        if (response.length or 0) > self.max_bytes:
            raise PictureError(f"it has {response.length:,} bytes, more than the limit of {self.max_bytes:,}")
        pieces, size, expected = [], 0, response.length
        while piece := response.read1(PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > self.max_bytes:
                raise PictureError(f"it has more bytes than the limit of {self.max_bytes:,}")
            if time.monotonic() >= deadline:
                raise TimeoutError
        if time.monotonic() >= deadline:
            raise TimeoutError
        if expected is not None and size < expected:
            raise PictureError(f"it ended after {size:,} of {expected:,} bytes")
        return b"".join(pieces)


def _split(url: str) -> SplitResult:
    """Return the parts of a web address, and refuse another kind of address."""
    parts = urlsplit(url.strip())
    if parts.scheme not in PORTS or not parts.hostname:
        raise PictureError(f"{url[:200]} is no address that begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise PictureError("an address with a user name or password in it is not asked")
    return parts


def _host_of(parts: SplitResult) -> str:
    """Return the name of the server in ASCII, as names are resolved and certificates written."""
    host = parts.hostname or ""
    return host if re.fullmatch(r"[\x21-\x7e]+", host) else host.encode("idna").decode()


def _resolve(host: str, port: int, deadline: float, is_allowed: Callable[[Address], bool]) -> list[Place]:
    """Return the family and the socket address of each address of a server, after checking them all."""
    found: list[Place] = []
    errors: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend((f[0], f[4]) for f in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            errors.append(error)

    thread = threading.Thread(target=look_up, daemon=True)  # a look-up has no timeout of its own
    thread.start()
    thread.join(_left(deadline))
    if thread.is_alive():
        raise TimeoutError
    if errors or not found:
        raise PictureError(f"there is no server called {host}")
    for _, place in found:
        if not is_allowed(ipaddress.ip_address(str(place[0]).partition("%")[0])):
            raise PictureError(f"{host} is at {place[0]}, which is not an address of the public internet")
    return found


def _connect(places: list[Place], deadline: float, held: list[socket.socket]) -> socket.socket:
    """Return a connection to the first of the places that answers; ``held`` is the one that is waited for."""
    for number, (family, place) in enumerate(places, 1):
        connected = socket.socket(family, socket.SOCK_STREAM)
        held[:] = [connected]
        try:
            connected.settimeout(_left(deadline) / (len(places) - number + 1))
            connected.connect(place)
            connected.settimeout(_left(deadline))
            return connected
        except OSError:
            connected.close()
            if number == len(places):
                raise
    raise TimeoutError


def _left(deadline: float) -> float:
    """Return the seconds until the deadline, which a timeout must not see as 0."""
    return max(deadline - time.monotonic(), 0.001)


def _cut_off(held: list[socket.socket]) -> None:
    """End all waiting for a connection; the plain call leaves an encryption's own state alone."""
    for connected in held:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)
