"""Telling a URL that a run has ended."""

import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

_ATTEMPTS, _PAUSE_S, _TIMEOUT_S = 3, 1.0, 10.0
_SERVER_ERROR = 500


def notify(url: str, message: Mapping[str, object]) -> None:
    """POST a message as JSON; a URL that doesn't take it is warned of.

    Args:
        url: An http or https URL.
        message: What JSON knows.
    """
    request = urllib.request.Request(
        url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    for attempt in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
                return
        except (OSError, HTTPException, ValueError) as error:
            is_final = isinstance(error, HTTPError) and error.code < _SERVER_ERROR
            if is_final or attempt + 1 == _ATTEMPTS:
                # Of a webhook's URL, the path is what must stay secret.
                logger.warning("%s could not be notified that the run has ended: %s", urlsplit(url).hostname, error)
                return
            time.sleep(_PAUSE_S * 2**attempt)
