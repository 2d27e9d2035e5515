"""Host names of the SageMaker runtime service.

Follows ``endpoint-rule-set-1.json`` of sagemaker-runtime and ``partitions.json`` as botocore has them.
"""

from __future__ import annotations

import re

__all__ = ["service_url"]

# Name, pattern of its regions, suffix, dual-stack suffix; the most common one last, for unknown regions.
_PARTITIONS = (
    ("aws-cn", r"cn-\w+-\d+|aws-cn-global", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("aws-us-gov", r"us-gov-\w+-\d+|aws-us-gov-global", "amazonaws.com", "api.aws"),
    ("aws-eusc", r"eusc-de-\w+-\d+", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("aws-iso", r"us-iso-\w+-\d+|aws-iso-global", "c2s.ic.gov", "api.aws.ic.gov"),
    ("aws-iso-b", r"us-isob-\w+-\d+|aws-iso-b-global", "sc2s.sgov.gov", "api.aws.scloud"),
    ("aws-iso-e", r"eu-isoe-\w+-\d+|aws-iso-e-global", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("aws-iso-f", r"us-isof-\w+-\d+|aws-iso-f-global", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("aws", r".*", "amazonaws.com", "api.aws"),
)
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def service_url(region: str, fips: bool = False, dualstack: bool = False) -> str:
    """Return the base address of the runtime service in a region.

    Parameters
    ----------
    region : str
        For example ``us-west-2``.
    fips : bool
        The validated-cryptography endpoint.
    dualstack : bool
        The endpoint that also answers over IPv6.

    Raises
    ------
    ValueError
        ``region`` cannot be a region's name.
    """
    if len(region) > 63 or not _REGION.fullmatch(region):
        raise ValueError(f"region {region!r}: expected a name like us-west-2")
    name, suffix, dual_suffix = next(
        (name, suffix, dual) for name, pattern, suffix, dual in _PARTITIONS if re.fullmatch(pattern, region)
    )
    if dualstack:
        service = "runtime.sagemaker-fips" if fips else "runtime.sagemaker"
        return f"https://{service}.{region}.{dual_suffix}"
    if not fips or name == "aws-us-gov":
        return f"https://runtime.sagemaker.{region}.{suffix}"
    if name == "aws":
        return f"https://runtime-fips.sagemaker.{region}.{suffix}"
    return f"https://runtime.sagemaker-fips.{region}.{suffix}"
