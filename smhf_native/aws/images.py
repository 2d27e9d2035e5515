"""Names of the container images of SageMaker that payloads refer to.

Local mode downloads and runs none of them; the names stand in the payload because the service's own
payload has them. Facts: the public tables of AWS' deep-learning containers.
"""

from __future__ import annotations

import re

__all__ = ["huggingface_image", "is_gpu_instance"]

# Transformers, framework, Python, and the end of the tag for a GPU and for a CPU.
_TRAINING = """
4.4.2 pytorch1.6.0 py36 cu110-ubuntu18.04 -
4.4.2 tensorflow2.4.1 py37 cu110-ubuntu18.04 -
4.5.0 pytorch1.6.0 py36 cu110-ubuntu18.04 -
4.5.0 tensorflow2.4.1 py37 cu110-ubuntu18.04 -
4.6.1 pytorch1.6.0 py36 cu110-ubuntu18.04 -
4.6.1 pytorch1.7.1 py36 cu110-ubuntu18.04 -
4.6.1 pytorch1.8.1 py36 cu111-ubuntu18.04 -
4.6.1 tensorflow2.4.1 py37 cu110-ubuntu18.04 -
4.10.2 pytorch1.8.1 py36 cu110-ubuntu18.04 -
4.10.2 pytorch1.9.0 py38 cu111-ubuntu20.04 -
4.10.2 tensorflow2.4.1 py37 cu110-ubuntu18.04 -
4.10.2 tensorflow2.5.1 py37 cu112-ubuntu18.04 -
4.11.0 pytorch1.9.0 py38 cu111-ubuntu20.04 -
4.11.0 tensorflow2.5.1 py37 cu112-ubuntu18.04 -
4.12.3 pytorch1.9.1 py38 cu111-ubuntu20.04 -
4.12.3 tensorflow2.5.1 py37 cu112-ubuntu18.04 -
4.17.0 pytorch1.10.2 py38 cu113-ubuntu20.04 -
4.17.0 tensorflow2.6.3 py38 cu112-ubuntu20.04 -
4.26.0 pytorch1.13.1 py39 cu117-ubuntu20.04 -
4.28.1 pytorch2.0.0 py310 cu118-ubuntu20.04 -
4.36.0 pytorch2.1.0 py310 cu121-ubuntu20.04 -
4.46.1 pytorch2.3.0 py311 cu121-ubuntu20.04 -
4.48.0 pytorch2.3.0 py311 cu121-ubuntu20.04 -
4.49.0 pytorch2.5.1 py311 cu124-ubuntu22.04 -
4.55.0 pytorch2.7.1 py312 cu128-ubuntu22.04 -
4.56.2 pytorch2.8.0 py312 cu129-ubuntu22.04 -
"""

_INFERENCE = """
4.6.1 pytorch1.7.1 py36 cu110-ubuntu18.04 ubuntu18.04
4.6.1 pytorch1.8.1 py36 cu111-ubuntu18.04 ubuntu18.04
4.6.1 tensorflow2.4.1 py37 cu110-ubuntu18.04 ubuntu18.04
4.10.2 pytorch1.8.1 py36 cu111-ubuntu18.04 ubuntu18.04
4.10.2 pytorch1.9.0 py38 cu111-ubuntu20.04 ubuntu20.04
4.10.2 tensorflow2.4.1 py37 cu110-ubuntu18.04 ubuntu18.04
4.10.2 tensorflow2.5.1 py37 cu112-ubuntu18.04 ubuntu18.04
4.11.0 pytorch1.9.0 py38 cu111-ubuntu20.04 ubuntu20.04
4.11.0 tensorflow2.5.1 py37 cu112-ubuntu18.04 ubuntu18.04
4.12.3 pytorch1.9.1 py38 cu111-ubuntu20.04 ubuntu20.04
4.12.3 tensorflow2.5.1 py37 cu112-ubuntu18.04 ubuntu18.04
4.17.0 pytorch1.10.2 py38 cu113-ubuntu20.04 ubuntu20.04
4.17.0 tensorflow2.6.3 py38 cu112-ubuntu20.04 ubuntu20.04
4.26.0 pytorch1.13.1 py39 cu117-ubuntu20.04 ubuntu20.04
4.26.0 tensorflow2.11.0 py39 cu112-ubuntu20.04 ubuntu20.04
4.28.1 pytorch2.0.0 py310 cu118-ubuntu20.04 ubuntu20.04
4.37.0 pytorch2.1.0 py310 cu118-ubuntu20.04 ubuntu22.04
4.48.0 pytorch2.3.0 py311 cu121-ubuntu22.04 ubuntu22.04
4.49.0 pytorch2.6.0 py312 cu124-ubuntu22.04 ubuntu22.04
4.51.3 pytorch2.6.0 py312 cu124-ubuntu22.04 ubuntu22.04
"""

_DEFAULT_ACCOUNT = "763104351884"
# Regions whose images lie under an account of their own.
_ACCOUNTS = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}


def _registry(account: str, region: str) -> str:
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{domain}"


def is_gpu_instance(instance_type: str | None) -> bool:
    """Tell whether an instance type name (``ml.p3.2xlarge``) is one with NVIDIA GPUs."""
    return bool(instance_type) and re.match(r"ml\.(p|g)\d", str(instance_type)) is not None


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def huggingface_image(
    scope: str,
    region: str,
    transformers_version: str,
    framework: str,
    framework_version: str,
    py_version: str,
    instance_type: str | None,
    *,
    strict: bool = True,
) -> str:
    """Return the Hugging Face image for ``scope`` ``"training"`` or ``"inference"``.

    Parameters
    ----------
    region, instance_type : str
        Where and on what the container would run; the type decides between GPU and CPU images.
    transformers_version, framework_version : str
        Full (``4.6.1``) or short (``4.6``); the tag keeps the form that was given.
    framework : {"pytorch", "tensorflow"}
    py_version : str
        For example ``"py36"``.
    strict : bool
        False: a combination that has no image gets a name made by the same pattern (local mode, where
        no image is run).

    Raises
    ------
    ValueError
        ``strict`` and no such image exists; the sentence lists what does.
    """
    rows = [line.split() for line in (_TRAINING if scope == "training" else _INFERENCE).split("\n") if line]
    gpu = scope == "training" or is_gpu_instance(instance_type)
    processor = "gpu" if gpu else "cpu"
    if scope == "training" and instance_type and not is_gpu_instance(instance_type) and strict:
        raise ValueError(
            f"no Hugging Face training image for the CPU instance type {instance_type!r}: "
            "supported processors: gpu"
        )
    full = transformers_version.count(".") >= 2
    match = None
    for transformers, base, python, gpu_end, cpu_end in rows:
        name = base.removeprefix(framework)
        if name == base or python != py_version:
            continue
        wanted = (transformers, name) if full else (_short(transformers), _short(name))
        if wanted == (transformers_version, framework_version):
            match = gpu_end if gpu else cpu_end
    if match is None:
        if strict:
            known = ", ".join(f"{row[0]}/{row[1]}/{row[2]}" for row in rows if row[1].startswith(framework))
            raise ValueError(
                f"no Hugging Face {scope} image for transformers {transformers_version}, {framework} "
                f"{framework_version}, {py_version}; there are: {known}"
            )
        match = "cu110-ubuntu18.04" if gpu else "ubuntu18.04"
    account = _ACCOUNTS.get(region, _DEFAULT_ACCOUNT)
    return (
        f"{_registry(account, region)}/huggingface-{framework}-{scope}:{framework_version}-transformers"
        f"{transformers_version}-{processor}-{py_version}-{match}"
    )
