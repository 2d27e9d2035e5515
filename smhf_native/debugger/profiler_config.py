"""ProfilerConfig: system sampling interval, output place, framework profile."""

from __future__ import annotations

from typing import Any

from smhf_native.debugger.framework_profile import FrameworkProfile

__all__ = ["ProfilerConfig"]

_INTERVALS_MS = (100, 200, 500, 1000, 5000, 60000)


class ProfilerConfig:
    """How a training job is profiled.

    Parameters
    ----------
    s3_output_path : str, optional
        ``s3://bucket/prefix``; the estimator fills its ``output_path`` in when it is missing.
    system_monitor_interval_millis : int, optional
        One of 100, 200, 500, 1000, 5000, 60000; the service's default is 500.
    framework_profile_params : FrameworkProfile, optional
        Framework metrics.
    profile_params : optional
        Accepted for the SDK's newer profiler; sent as it is when it has ``profiling_parameters``.
    disable_profiler : bool
        Turn all profiling off.

    Raises
    ------
    AssertionError
        ``framework_profile_params`` is no FrameworkProfile (as in SDK v2).
    ValueError
        An interval that the service refuses.
    """

    def __init__(
        self,
        s3_output_path: str | None = None,
        system_monitor_interval_millis: int | None = None,
        framework_profile_params: FrameworkProfile | None = None,
        profile_params: Any = None,
        disable_profiler: bool = False,
    ) -> None:
        assert framework_profile_params is None or isinstance(framework_profile_params, FrameworkProfile), (
            "framework_profile_params must be a FrameworkProfile"
        )
        assert framework_profile_params is None or profile_params is None, (
            "give framework_profile_params or profile_params, not both"
        )
        if system_monitor_interval_millis is not None and system_monitor_interval_millis not in _INTERVALS_MS:
            raise ValueError(
                f"system_monitor_interval_millis is {system_monitor_interval_millis!r}; "
                f"the intervals are {', '.join(map(str, _INTERVALS_MS))}"
            )
        self.s3_output_path = s3_output_path
        self.system_monitor_interval_millis = system_monitor_interval_millis
        self.framework_profile_params = framework_profile_params
        self.profile_params = profile_params
        self.disable_profiler = bool(disable_profiler)

    def _to_request_dict(self) -> dict[str, Any]:
        """Return ``ProfilerConfig`` of CreateTrainingJob (as SDK v2.57 sends it; spec A3).

        ``DisableProfiler`` is left out unless it is True: false is the service's own default.
        """
        request: dict[str, Any] = {}
        if self.s3_output_path is not None:
            request["S3OutputPath"] = self.s3_output_path
        if self.disable_profiler:
            request["DisableProfiler"] = True
            return request
        if self.system_monitor_interval_millis is not None:
            request["ProfilingIntervalInMilliseconds"] = self.system_monitor_interval_millis
        params = self.framework_profile_params or self.profile_params
        if params is not None:
            request["ProfilingParameters"] = dict(params.profiling_parameters)
        return request

    @classmethod
    def _to_profiler_disabled_request_dict(cls) -> dict[str, Any]:
        """Return the request that turns profiling off."""
        return {"DisableProfiler": True}
