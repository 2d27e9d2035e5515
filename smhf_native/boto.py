"""``boto3.client("sagemaker-runtime")`` reaches local endpoints, in local mode and in this process.

:func:`install` wraps the creation of clients in botocore. A client of ``sagemaker-runtime`` that was
given no endpoint URL gets a loopback one, a region and placeholder keys where the caller and the AWS
settings give none, and no proxy; each call goes to the server that has the endpoint's name just then,
so that several endpoints and servers work side by side. No other service, no environment variable and
no file is touched. In AWS mode (``SMHF_MODE=aws`` when the client is made) nothing is changed.

Keys of the caller's own settings are not used for a local client: what is signed on this machine needs
none.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ["install", "uninstall"]

_SERVICE = "sagemaker-runtime"
#: Where a local client points before a call is routed; nothing listens on the discard port.
_PLACEHOLDER_URL = "http://127.0.0.1:9"
_MARK = "_smhf_native_original"


def install() -> None:
    """Wrap botocore's client creation now, or when botocore is imported. Calling again is free."""
    module = sys.modules.get("botocore.session")
    if module is not None and hasattr(module, "Session"):
        _wrap(module)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def uninstall() -> None:
    """Take the wrapping back (used by tests); clients made before keep what they have."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
    module = sys.modules.get("botocore.session")
    original = getattr(getattr(module, "Session", None), _MARK, None)
    if module is not None and original is not None:
        module.Session.create_client = original
        delattr(module.Session, _MARK)


class _Watcher(importlib.abc.MetaPathFinder):
    """Waits for ``botocore.session`` to be imported by somebody else, then wraps it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The real module's spec with a loader that wraps afterwards."""
        if fullname != "botocore.session":
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _wrap(module)

            loader.exec_module = exec_module
        return spec


def _wrap(module: Any) -> None:
    if hasattr(module.Session, _MARK):
        return
    original = module.Session.create_client
    names = ["service_name", "region_name", "api_version", "use_ssl", "verify", "endpoint_url",
             "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "config",
             "aws_account_id"]  # fmt: skip

    def create_client(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or not _wants_local(given):
            return original(self, *args, **kwargs)
        client = original(self, **_local_arguments(self, given))
        _route(client)
        return client

    create_client.__doc__ = original.__doc__
    setattr(module.Session, _MARK, original)
    module.Session.create_client = create_client


def _wants_local(given: dict[str, Any]) -> bool:
    from smhf_native.session import resolve_mode

    return (
        given.get("service_name") == _SERVICE
        and given.get("endpoint_url") is None
        and resolve_mode() == "local"
    )


def _local_arguments(session: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The caller's arguments, completed where they say nothing."""
    from botocore.config import Config

    from smhf_native.session import LOCAL_REGION

    arguments = dict(given)
    arguments["endpoint_url"] = _PLACEHOLDER_URL
    if arguments.get("region_name") is None:
        try:
            region = session.get_config_variable("region")
        except Exception:  # a profile that does not exist: the local endpoint needs none
            region = None
        arguments["region_name"] = region or LOCAL_REGION
    if arguments.get("aws_access_key_id") is None and arguments.get("aws_secret_access_key") is None:
        arguments["aws_access_key_id"] = "local"
        arguments["aws_secret_access_key"] = "local"
        arguments["aws_session_token"] = None
    config = arguments.get("config")
    # An empty dict means "no proxies"; None would read HTTP_PROXY.
    # (a custom address excludes FIPS and dual-stack names, which settings may ask for).
    quiet = {"proxies": {}, "use_fips_endpoint": False, "use_dualstack_endpoint": False}
    quiet = {key: value for key, value in quiet.items() if getattr(config, key, None) is None}
    arguments["config"] = Config(**quiet) if config is None else config.merge(Config(**quiet))
    return arguments


def _route(client: Any) -> None:
    """Let each call of ``client`` go to the server that has its endpoint."""
    events = client.meta.events
    events.register("before-parameter-build.sagemaker-runtime", _remember_name)
    events.register("before-call.sagemaker-runtime", _point_at_server)


def _remember_name(params: Any, context: Any = None, **_: Any) -> None:
    if isinstance(context, dict) and isinstance(params, dict):
        context["smhf_endpoint"] = params.get("EndpointName")


def _point_at_server(params: dict[str, Any], context: Any = None, **_: Any) -> None:
    from smhf_native import endpoints

    name = (context or {}).get("smhf_endpoint")
    if not isinstance(name, str):
        return
    try:
        url = endpoints.find(name).url
    except (LookupError, ValueError):
        # Any live server answers for the service: it knows that there is no such endpoint.
        others = endpoints.list_endpoints()
        if not others:
            raise
        url = others[-1].url
    params["url"] = params["url"].replace(_PLACEHOLDER_URL, url, 1)
