"""The rule evaluator's image by region (AWS's public registry table)."""

from __future__ import annotations

__all__ = ["DEFAULT_RULE_EVALUATOR_IMAGE", "get_rule_container_image_uri"]

# What a built-in rule carries until an estimator knows the region.
DEFAULT_RULE_EVALUATOR_IMAGE = "DEFAULT_RULE_EVALUATOR_IMAGE"

_ACCOUNTS = {
    "af-south-1": "314341159256",
    "ap-east-1": "199566480951",
    "ap-northeast-1": "430734990657",
    "ap-northeast-2": "578805364391",
    "ap-northeast-3": "364406365360",
    "ap-south-1": "904829902805",
    "ap-southeast-1": "972752614525",
    "ap-southeast-2": "184798709955",
    "ca-central-1": "519511493484",
    "cn-north-1": "618459771430",
    "cn-northwest-1": "658757709296",
    "eu-central-1": "482524230118",
    "eu-north-1": "314864569078",
    "eu-south-1": "563282790590",
    "eu-west-1": "929884845733",
    "eu-west-2": "250201462417",
    "eu-west-3": "447278800020",
    "me-south-1": "986000313247",
    "sa-east-1": "818342061345",
    "us-east-1": "503895931360",
    "us-east-2": "915447279597",
    "us-gov-west-1": "515509971035",
    "us-west-1": "685455198987",
    "us-west-2": "895741380848",
}


def get_rule_container_image_uri(region: str) -> str:
    """Return the image URI of the built-in rules in a region.

    Parameters
    ----------
    region : str
        E.g. ``"us-west-2"``.

    Raises
    ------
    ValueError
        No rule image is published for this region.
    """
    account = _ACCOUNTS.get(region)
    if account is None:
        raise ValueError(f"no debugger rule image for region {region!r}; regions: {', '.join(_ACCOUNTS)}")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}/sagemaker-debugger-rules:latest"
