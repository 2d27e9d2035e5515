"""Input channels of a training job (the names of ``sagemaker.inputs``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TrainingInput", "input_config"]


class TrainingInput:
    """One input channel with its options.

    Parameters
    ----------
    s3_data : str
        Address of an object or prefix.
    distribution : str, optional
        ``"FullyReplicated"`` (default) or ``"ShardedByS3Key"``.
    compression, content_type, record_wrapping, input_mode : str, optional
        Passed on as ``CompressionType``, ``ContentType``, ``RecordWrapperType``, ``InputMode``.
    s3_data_type : str
        ``"S3Prefix"``, ``"ManifestFile"`` or ``"AugmentedManifestFile"``.
    instance_groups, attribute_names : list of str, optional
        Passed on inside the data source.
    target_attribute_name, hub_access_config, model_access_config : optional
        Kept as attributes / passed on as the service spells them.
    shuffle_config : optional
        An object with ``seed``.

    Attributes
    ----------
    config : dict
        The channel as CreateTrainingJob spells it, without its name.
    """

    def __init__(
        self,
        s3_data: str,
        distribution: str | None = None,
        compression: str | None = None,
        content_type: str | None = None,
        record_wrapping: str | None = None,
        s3_data_type: str = "S3Prefix",
        instance_groups: Sequence[str] | None = None,
        input_mode: str | None = None,
        attribute_names: Sequence[str] | None = None,
        target_attribute_name: str | None = None,
        shuffle_config: Any = None,
        hub_access_config: dict[str, Any] | None = None,
        model_access_config: dict[str, Any] | None = None,
    ) -> None:
        source: dict[str, Any] = {"S3DataType": s3_data_type, "S3Uri": s3_data}
        if instance_groups:
            if distribution is not None:
                raise ValueError("TrainingInput: give instance_groups or distribution, not both")
            source["InstanceGroupNames"] = list(instance_groups)
        else:
            source["S3DataDistributionType"] = distribution or "FullyReplicated"
        if attribute_names is not None:
            source["AttributeNames"] = list(attribute_names)
        if hub_access_config is not None:
            source["HubAccessConfig"] = hub_access_config
        if model_access_config is not None:
            source["ModelAccessConfig"] = model_access_config
        self.config: dict[str, Any] = {"DataSource": {"S3DataSource": source}}
        self.target_attribute_name = target_attribute_name
        for key, value in (
            ("CompressionType", compression),
            ("ContentType", content_type),
            ("RecordWrapperType", record_wrapping),
            ("InputMode", input_mode),
        ):
            if value is not None:
                self.config[key] = value
        if shuffle_config is not None:
            self.config["ShuffleConfig"] = {"Seed": shuffle_config.seed}

    def __repr__(self) -> str:
        return f"TrainingInput({self.config['DataSource']['S3DataSource']['S3Uri']!r})"


def _one(value: Any, channel: str, local: bool) -> dict[str, Any]:
    if isinstance(value, TrainingInput):
        entry = value
    elif hasattr(value, "config") and isinstance(value.config, dict):
        entry = value  # an input object of another package, duck-typed
    elif isinstance(value, str):
        if not value.startswith("s3://") and not (local and value.startswith("file://")):
            kinds = "s3:// or file://" if local else "s3://"
            raise ValueError(f"the input of channel {channel!r} must start with {kinds}, got {value!r}")
        entry = TrainingInput(value)
    else:
        raise ValueError(
            f"the input of channel {channel!r} must be an s3:// address or a TrainingInput, "
            f"got {type(value).__name__}"
        )
    return {"ChannelName": channel, **entry.config}


def input_config(inputs: Any, *, local: bool = False) -> list[dict[str, Any]]:
    """Return ``InputDataConfig`` for what ``fit`` was given.

    Parameters
    ----------
    inputs : None, str, TrainingInput, or dict of channel name to str or TrainingInput
        A single one becomes the channel ``"training"``.
    local : bool
        Local mode also takes ``file://`` addresses.

    Raises
    ------
    ValueError
        Another type, an address of another kind, or a channel name that the service refuses.
    """
    if inputs is None:
        return []
    if not isinstance(inputs, dict):
        return [_one(inputs, "training", local)]
    for name in inputs:
        if not isinstance(name, str) or not name or not all(c.isalnum() or c in "._-" for c in name):
            raise ValueError(f"the channel name {name!r} may hold letters, digits, '.', '_' and '-' only")
    return [_one(value, name, local) for name, value in inputs.items()]
