"""Where a server listens, and whom it answers: a page of another site may ask nothing of it, whatever name it uses."""

import errno
import ipaddress
import socket
from collections.abc import Mapping

from promptgraft.spaces import InvalidInputError


def bound_socket(host: str, port: int) -> socket.socket:
    """Take a port, without listening to it yet.

    Args:
        host: Name or address.
        port: The port; any free one if 0.

    Raises:
        InvalidInputError: If it can't be opened, for instance because another program uses it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise port_error(host, port, error) from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise port_error(host, port, error) from error
    return taken


def port_error(host: str, port: int, error: Exception) -> InvalidInputError:
    """Explain why a port can't be opened, and what to do about it."""
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return InvalidInputError(f"port {port} of {host} is taken by another program; choose another one with --port")
    if code in (errno.EACCES, errno.EPERM):
        return InvalidInputError(f"port {port} of {host} is not open to this user; choose one from 1024 with --port")
    return InvalidInputError(f"can't listen on {host!r}, port {port}: {getattr(error, 'strerror', None) or error}")


def url_of(host: str, port: int) -> str:
    """Return the URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(name: str) -> bool:
    """Tell whether a name or an address is this machine's own, which no other machine can reach."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == "localhost"


def why_refused(headers: Mapping[str, str], *, local: bool) -> str | None:
    """Say why a request isn't answered; None if it is.

    A page of another site can make a browser send requests here, and reads the answers if it gets the browser to
    believe that this machine is its own (DNS rebinding). The former shows in `Origin`, the latter in `Host`.

    Args:
        headers: Its headers, by name in lower case.
        local: Whether the server listens on loopback only.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if local and not is_loopback(name):
        return f"the request is for the host {host!r}, and this server is only for 127.0.0.1 and localhost"
    if origin is not None and origin.partition("://")[2] != host:
        return f"the request comes from a page of {origin}, and this server answers no other site's pages"
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    if site in ("cross-site", "same-site") and mode != "navigate":
        return "the request comes from a page of another site, and this server answers none"
    return None
