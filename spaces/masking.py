"""Secrets in URLs, kept out of what is printed, logged or stored."""

import logging
import re

MASK = "***"
# What may follow the `?` of a URL without being a secret; the value of everything else is masked.
_HARMLESS = (
    *("application_name", "cache", "check_same_thread", "client_encoding", "connect_timeout", "dbname", "endpoint_url"),
    *("host", "hostaddr", "immutable", "isolation_level", "keepalives", "mode", "nolock", "port", "region", "sslmode"),
    *("target_session_attrs", "timeout", "uri", "user", "versionid", "vfs"),
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*")
# Of a URL without a query: the name up to the first colon, the password up to the last @ (it may hold any sign).
_LOGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^:/@]*):(?P<password>.*)@")
_TOKEN = re.compile(r"(?P<scheme>https?://)[^:/@]+@")
_PAIR = re.compile(r"(?P<name>[^=&;?#]+)=(?P<value>[^&;#]*)")
# A query outside a URL: drivers and file systems show it without what it belongs to.
_SECRET = re.compile(
    r"(?P<name>[?&;\s,](?:[\w.%-]*(?:passw|passphrase|pwd|secret|token|credential|signature|api_?key|access_?key)[\w.%-]*"
    r"|sig))=(?P<value>[^&;\s'\",)]+)",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return a text with the passwords, tokens and keys of its URLs replaced by `***`; see `masked_url`.

    They may stand anywhere in it: in an error of a library, a log line, a path.
    """
    return _SECRET.sub(rf"\g<name>={MASK}", _URL.sub(lambda found: masked_url(found.group()), text))


def masked_url(url: str) -> str:
    """Return a URL with its scheme, user, host, path, and those parts of its query that can't be secret."""
    place, mark, query = url.partition("?")
    if "@" in query and ":" in place.partition("://")[2]:
        place, mark, query = url, "", ""  # The password may hold a question mark.
    place = _LOGIN.sub(rf"\g<scheme>\g<user>:{MASK}@", place)
    return _TOKEN.sub(rf"\g<scheme>{MASK}@", place) + mark + _PAIR.sub(_masked_pair, query)


def mask_logs() -> None:
    """Log warnings to standard error, without the secrets in them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_MaskingFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _MaskingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Write `warning: what`, and who says it where that isn't promptgraft."""
        who = "" if record.name.partition(".")[0] == "promptgraft" else f" {record.name}"
        return masked(f"{record.levelname.lower()}{who}: {super().format(record)}")


def _masked_pair(found: re.Match[str]) -> str:
    name, value = found.group("name"), found.group("value")
    return f"{name}={value if name.lower() in _HARMLESS else MASK}"
