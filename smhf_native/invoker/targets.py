"""From what the caller names to an address, a region and a source of credentials."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from smhf_native.errors import SmhfError
from smhf_native.invoker.hosts import service_url

__all__ = ["CredentialsSource", "EndpointLookupError", "Keys", "Target", "find_target", "make_source"]

Keys = tuple[str, str, str | None]
_NAME = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
_REFRESH_SECONDS = 30.0


class EndpointLookupError(SmhfError, LookupError):
    """No local endpoint of that name is recorded."""


class Target(NamedTuple):
    """Where requests go; ``region`` None: they are not signed."""

    url: str
    region: str | None


def _mode(mode: str | None, region: str | None) -> str:
    """``"local"`` or ``"aws"`` for an endpoint given by name."""
    chosen = mode or ("aws" if region is not None else os.environ.get("SMHF_MODE", "").strip() or "local")
    if chosen not in ("local", "aws"):
        raise ValueError(f"mode {chosen!r}: expected 'local' or 'aws'")
    return chosen


def _from_url(url: str, region: str | None) -> Target:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the url holds a user name or password; send such things in headers=")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint {url!r}: expected http(s)://HOST[:PORT][/PATH] or the name of an endpoint")
    if parts.path in ("", "/") and not parts.query:
        url = f"{parts.scheme}://{parts.netloc}/invocations"
    return Target(url, region)


def _local(name: str) -> Target:
    home = os.environ.get("SMHF_HOME", "").strip()
    folder = Path(home).expanduser() if home else Path.home() / ".local" / "share" / "smhf_native"
    path = folder / "endpoints" / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        base = record["url"]
    except FileNotFoundError:
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise EndpointLookupError(f"no local endpoint {name!r} is up; endpoints here: {there}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EndpointLookupError(f"the record of the local endpoint {name!r} is unreadable: {error}") from error
    return Target(f"{base}/endpoints/{name}/invocations", None)


def _aws(name: str, region: str | None, credentials: Any, fips: bool, dualstack: bool) -> Target:
    found = region or getattr(credentials, "region_name", None)
    if found is None and hasattr(credentials, "get_config_variable"):
        found = credentials.get_config_variable("region")
    found = found or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not found:
        raise ValueError(f"endpoint {name!r} of AWS: give region=, or set AWS_REGION")
    return Target(f"{service_url(found, fips, dualstack)}/endpoints/{name}/invocations", found)


def find_target(
    endpoint: str, mode: str | None, region: str | None, credentials: Any, fips: bool, dualstack: bool
) -> Target:
    """Resolve a URL, the name of a local endpoint or the name of one in AWS.

    Raises
    ------
    ValueError
        Malformed, or settings that contradict each other.
    EndpointLookupError
        No such local endpoint.
    """
    if "://" in endpoint:
        if fips or dualstack:
            raise ValueError("fips and dualstack choose a service address; a url has chosen one already")
        return _from_url(endpoint, region)
    if not _NAME.fullmatch(endpoint):
        raise ValueError(f"endpoint {endpoint!r}: expected a url, or 1-63 letters, digits and inner hyphens")
    if _mode(mode, region) == "aws":
        return _aws(endpoint, region, credentials, fips, dualstack)
    return _local(endpoint)


class CredentialsSource:
    """Keeps the credentials of an invoker fresh; called from its polls.

    The keys themselves are never kept here: they go straight to the compiled invoker.
    """

    __slots__ = ("_fetch", "_next")

    def __init__(self, fetch: Callable[[], Keys]) -> None:
        self._fetch = fetch
        self._next = 0.0

    def __call__(self, refused: bool) -> Keys | None:
        """Return the keys when it is time to look again, or at once when they were refused."""
        now = time.monotonic()
        if not refused and now < self._next:
            return None
        self._next = now + _REFRESH_SECONDS
        return self._fetch()

    def __repr__(self) -> str:
        return "<CredentialsSource>"


def _check(value: Any) -> Keys:
    """Frozen credentials of botocore, or a tuple, as three strings; never quotes what it got."""
    items = tuple(value) if isinstance(value, tuple | list) else ()
    if items and len(items) in (2, 3, 4) and all(isinstance(item, str) and item for item in items[:2]):
        token = items[2] if len(items) > 2 else None
        if token is None or isinstance(token, str):
            return items[0], items[1], token or None
    raise TypeError(
        "credentials: expected (access key, secret key[, token]), a function that returns that, or a "
        f"boto3 or botocore session; got {type(value).__name__}"
    )


def _of_session(session: Any) -> Keys:
    found = session.get_credentials()
    if found is None:
        raise ValueError("the session has no AWS credentials")
    return _check(tuple(found.get_frozen_credentials()))


def _of_environment() -> Keys:
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise ValueError(
            "no AWS credentials: give credentials=, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "install boto3 (extra 'aws') for profiles and roles"
        )
    return key, secret, os.environ.get("AWS_SESSION_TOKEN") or None


def make_source(credentials: Any) -> tuple[Keys | None, CredentialsSource | None]:
    """Return fixed keys, or a source of changing ones."""
    if credentials is None:
        try:
            from botocore.session import Session
        except ImportError:
            return None, CredentialsSource(_of_environment)
        session = Session()
        return None, CredentialsSource(lambda: _of_session(session))
    if hasattr(credentials, "get_credentials"):
        return None, CredentialsSource(lambda: _of_session(credentials))
    if callable(credentials):
        return None, CredentialsSource(lambda: _check(credentials()))
    return _check(credentials), None
