"""Hides the secrets in URLs."""

import logging
import re

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")
_HIDDEN = "***"


def redacted(text: str) -> str:
    """The text with the secret parts of its URLs replaced by `***`.

    Secret are the user and password before a host (`https://user:password@host/`) and the values in
    a query (`?token=…`, the signature of a signed URL). Schemes, hosts, paths and the names of
    parameters stay.
    """
    return _URL.sub(lambda match: _of_url(match.group()), text)


def _of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    end = min((i for i in (rest.find(c) for c in "/?#") if i >= 0), default=len(rest))
    authority, rest = rest[:end], rest[end:]
    if "@" in authority:
        authority = f"{_HIDDEN}@{authority.rpartition('@')[2]}"
    path, mark, query = rest.partition("?")
    return f"{scheme}://{authority}{path}{mark}" + re.sub(r"=[^&#]*", f"={_HIDDEN}", query)


def url_title(url: str) -> str:
    """A file name for a URL: the last part of its path, without secrets."""
    path = re.split("[?#]", redacted(url).rstrip("/"))[0]
    return re.sub(r"[^\w.-]", "_", path.rpartition("/")[2])[-100:]


class RedactingFilter(logging.Filter):
    """Redacts the messages of a logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redacts the message, and keeps the record."""
        message = record.getMessage()
        if "://" in message:
            record.msg, record.args = redacted(message), None
        return True
