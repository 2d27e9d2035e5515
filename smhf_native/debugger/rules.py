"""Rule and ProfilerRule: what an estimator's ``rules=[...]`` holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smhf_native.debugger import rule_configs
from smhf_native.debugger.actions import Action, ActionList
from smhf_native.debugger.collections import CollectionConfig
from smhf_native.debugger.images import DEFAULT_RULE_EVALUATOR_IMAGE

__all__ = ["ProfilerRule", "Rule", "RuleBase", "get_default_profiler_rule"]


class RuleBase:
    """Common fields of both kinds of rules; use the class methods of :class:`Rule` and :class:`ProfilerRule`.

    Attributes
    ----------
    name : str
        ``RuleConfigurationName``; also the folder below ``rule-output``.
    image_uri : str
        ``DEFAULT_RULE_EVALUATOR_IMAGE`` until an estimator knows the region.
    instance_type, volume_size_in_gb : optional
        Only custom rules have them.
    container_local_output_path, s3_output_path : str, optional
        Where the rule writes.
    rule_parameters : dict
        Parameters, ``rule_to_invoke`` among them.
    """

    def __init__(
        self,
        name: str,
        image_uri: str,
        instance_type: str | None,
        container_local_output_path: str | None,
        s3_output_path: str | None,
        volume_size_in_gb: int | None,
        rule_parameters: Mapping[str, Any] | None,
    ) -> None:
        self.name = name
        self.image_uri = image_uri
        self.instance_type = instance_type
        self.container_local_output_path = container_local_output_path
        self.s3_output_path = s3_output_path
        self.volume_size_in_gb = volume_size_in_gb
        self.rule_parameters: dict[str, Any] = dict(rule_parameters or {})

    def _to_request_dict(self) -> dict[str, Any]:
        request: dict[str, Any] = {
            "RuleConfigurationName": self.name,
            "RuleEvaluatorImage": self.image_uri,
        }
        optional = {
            "InstanceType": self.instance_type,
            "VolumeSizeInGB": self.volume_size_in_gb,
            "LocalPath": self.container_local_output_path,
            "S3OutputPath": self.s3_output_path,
        }
        request.update({key: value for key, value in optional.items() if value})
        if self.rule_parameters:
            request["RuleParameters"] = {key: str(value) for key, value in self.rule_parameters.items()}
        return request


class Rule(RuleBase):
    """A debugging rule (over tensors and scalars of the job).

    Examples
    --------
    >>> from smhf_native.debugger import Rule, rule_configs
    >>> rule = Rule.sagemaker(rule_configs.loss_not_decreasing(), rule_parameters={"num_steps": "20"})
    >>> rule.to_debugger_rule_config_dict()["RuleParameters"]
    {'rule_to_invoke': 'LossNotDecreasing', 'num_steps': '20'}
    """

    def __init__(
        self,
        name: str,
        image_uri: str,
        instance_type: str | None,
        container_local_output_path: str | None,
        s3_output_path: str | None,
        volume_size_in_gb: int | None,
        rule_parameters: Mapping[str, Any] | None,
        collections_to_save: Sequence[CollectionConfig],
        actions: Action | ActionList | None = None,
    ) -> None:
        super().__init__(
            name,
            image_uri,
            instance_type,
            container_local_output_path,
            s3_output_path,
            volume_size_in_gb,
            rule_parameters,
        )
        self.collection_configs = list(collections_to_save)
        self.actions = actions

    @classmethod
    def sagemaker(
        cls,
        base_config: Mapping[str, Any],
        name: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        other_trials_s3_input_paths: Iterable[str] | None = None,
        rule_parameters: Mapping[str, Any] | None = None,
        collections_to_save: Sequence[CollectionConfig] | None = None,
        actions: Action | ActionList | None = None,
    ) -> Rule:
        """Make a built-in rule.

        Parameters
        ----------
        base_config : mapping
            From :mod:`rule_configs`, e.g. ``rule_configs.loss_not_decreasing()``.
        name : str, optional
            Default: the name in ``base_config``.
        container_local_output_path, s3_output_path : str, optional
            Where the rule writes.
        other_trials_s3_input_paths : iterable of str, optional
            Other jobs, for ``similar_across_runs``.
        rule_parameters : mapping, optional
            Changes of the rule's parameters; never ``rule_to_invoke``.
        collections_to_save : sequence of CollectionConfig, optional
            Instead of the rule's own.
        actions : Action or ActionList, optional
            What happens when the rule fires (AWS mode).

        Raises
        ------
        RuntimeError
            ``rule_to_invoke`` is given, or ``actions`` is of another type.
        TypeError
            ``base_config`` is no debugging rule.
        """
        if not isinstance(base_config, Mapping) or "DebugRuleConfiguration" not in base_config:
            raise TypeError(
                "Rule.sagemaker needs a debugging rule such as rule_configs.loss_not_decreasing(), "
                f"found {type(base_config).__name__}; profiling rules go to ProfilerRule.sagemaker"
            )
        if rule_parameters is not None and rule_parameters.get("rule_to_invoke") is not None:
            raise RuntimeError("rule_to_invoke of a built-in rule cannot be changed; use Rule.custom")
        _check_actions(actions)
        base = base_config["DebugRuleConfiguration"]
        parameters = _other_trials(other_trials_s3_input_paths)
        parameters.update(base.get("RuleParameters", {}))
        parameters.update(rule_parameters or {})
        collections = collections_to_save or [
            CollectionConfig(item.get("CollectionName"), item.get("CollectionParameters", {}))
            for item in base_config.get("CollectionConfigurations", [])
        ]
        return cls(
            name=name or base["RuleConfigurationName"],
            image_uri=DEFAULT_RULE_EVALUATOR_IMAGE,
            instance_type=None,
            container_local_output_path=container_local_output_path,
            s3_output_path=s3_output_path,
            volume_size_in_gb=None,
            rule_parameters=parameters,
            collections_to_save=collections,
            actions=actions,
        )

    @classmethod
    def custom(
        cls,
        name: str,
        image_uri: str,
        instance_type: str,
        volume_size_in_gb: int,
        source: str | None = None,
        rule_to_invoke: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        other_trials_s3_input_paths: Iterable[str] | None = None,
        rule_parameters: Mapping[str, Any] | None = None,
        collections_to_save: Sequence[CollectionConfig] | None = None,
        actions: Action | ActionList | None = None,
    ) -> Rule:
        """Make a rule of one's own (AWS mode; a local job reports it as Error, by name).

        Raises
        ------
        ValueError
            Only one of ``source`` and ``rule_to_invoke`` is given.
        RuntimeError
            ``actions`` is of another type.
        """
        _check_actions(actions)
        parameters = _other_trials(other_trials_s3_input_paths)
        parameters.update(_custom_parameters(source, rule_to_invoke, rule_parameters))
        return cls(
            name=name,
            image_uri=image_uri,
            instance_type=instance_type,
            container_local_output_path=container_local_output_path,
            s3_output_path=s3_output_path,
            volume_size_in_gb=volume_size_in_gb,
            rule_parameters=parameters,
            collections_to_save=collections_to_save or [],
            actions=actions,
        )

    def prepare_actions(self, training_job_name: str) -> None:
        """Put the actions into the parameters, with the job's name as default prefix.

        Parameters
        ----------
        training_job_name : str
            Name of the job that is about to start.
        """
        if self.actions is None:
            self.rule_parameters.pop("action_json", None)  # only actions= may set it
            return
        self.actions.update_training_job_prefix_if_not_specified(training_job_name)
        self.rule_parameters["action_json"] = self.actions.serialize()

    def to_debugger_rule_config_dict(self) -> dict[str, Any]:
        """Return one entry of ``DebugRuleConfigurations``."""
        return self._to_request_dict()


class ProfilerRule(RuleBase):
    """A profiling rule (over system and framework metrics of the job)."""

    @classmethod
    def sagemaker(
        cls,
        base_config: rule_configs.ProfilerRuleBase,
        name: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        instance_type: str | None = None,
        volume_size_in_gb: int | None = None,
    ) -> ProfilerRule:
        """Make a built-in rule.

        Parameters
        ----------
        base_config : ProfilerRuleBase
            From :mod:`rule_configs`, e.g. ``rule_configs.ProfilerReport()``.
        name : str, optional
            Default: the class name of ``base_config``.
        container_local_output_path, s3_output_path : str, optional
            Where the rule writes.
        instance_type, volume_size_in_gb : optional
            Machine of the evaluation (AWS mode).

        Raises
        ------
        TypeError
            ``base_config`` is no profiling rule.
        """
        if not hasattr(base_config, "rule_parameters") or not hasattr(base_config, "rule_name"):
            raise TypeError(
                "ProfilerRule.sagemaker needs a profiling rule such as rule_configs.ProfilerReport(), "
                f"found {type(base_config).__name__}; debugging rules go to Rule.sagemaker"
            )
        return cls(
            name=name or base_config.rule_name,
            image_uri=DEFAULT_RULE_EVALUATOR_IMAGE,
            instance_type=instance_type,
            container_local_output_path=container_local_output_path,
            s3_output_path=s3_output_path,
            volume_size_in_gb=volume_size_in_gb,
            rule_parameters=base_config.rule_parameters,
        )

    @classmethod
    def custom(
        cls,
        name: str,
        image_uri: str,
        instance_type: str,
        volume_size_in_gb: int,
        source: str | None = None,
        rule_to_invoke: str | None = None,
        container_local_output_path: str | None = None,
        s3_output_path: str | None = None,
        rule_parameters: Mapping[str, Any] | None = None,
    ) -> ProfilerRule:
        """Make a rule of one's own (AWS mode; a local job reports it as Error, by name).

        Raises
        ------
        ValueError
            Only one of ``source`` and ``rule_to_invoke`` is given.
        """
        return cls(
            name=name,
            image_uri=image_uri,
            instance_type=instance_type,
            container_local_output_path=container_local_output_path,
            s3_output_path=s3_output_path,
            volume_size_in_gb=volume_size_in_gb,
            rule_parameters=_custom_parameters(source, rule_to_invoke, rule_parameters),
        )

    def to_profiler_rule_config_dict(self) -> dict[str, Any]:
        """Return one entry of ``ProfilerRuleConfigurations``; every parameter is a str."""
        return self._to_request_dict()


def get_default_profiler_rule() -> ProfilerRule:
    """Return the ProfilerReport that the SDK adds by itself, named ``ProfilerReport-<epoch seconds>``."""
    config = rule_configs.ProfilerReport()
    return ProfilerRule.sagemaker(config, name=f"{config.rule_name}-{int(time.time())}")


def _other_trials(paths: Iterable[str] | None) -> dict[str, Any]:
    return {f"other_trial_{index}": path for index, path in enumerate(paths or [])}


def _custom_parameters(
    source: str | None, rule_to_invoke: str | None, rule_parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    if bool(source) != bool(rule_to_invoke):
        given, missing = ("source", "rule_to_invoke") if source else ("rule_to_invoke", "source")
        raise ValueError(f"{given} is given without {missing}; a custom rule needs both or neither")
    parameters: dict[str, Any] = {}
    if source:
        parameters["source_s3_uri"] = source
        parameters["rule_to_invoke"] = rule_to_invoke
    parameters.update(rule_parameters or {})
    return parameters


def _check_actions(actions: object) -> None:
    if actions is not None and not rule_configs.is_valid_action_object(actions):
        raise RuntimeError(f"actions must be an Action or an ActionList, found {type(actions).__name__}")
