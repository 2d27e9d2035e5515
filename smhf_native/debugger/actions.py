"""What a debugging rule does when it fires: stop the job, send a mail, send a text message."""

from __future__ import annotations

import json
import re

__all__ = ["Action", "ActionList", "Email", "SMS", "StopTraining", "is_valid_action_object"]


class Action:
    """Base of the actions; ``serialize()`` gives the text of the rule parameter ``action_json``."""

    def __init__(self, **action_parameters: str | None) -> None:
        self.action_parameters: dict[str, str] = {
            key: value for key, value in action_parameters.items() if value is not None
        }
        self.action_parameters["name"] = type(self).__name__.lower()

    def serialize(self) -> str:
        """Return this action as a JSON object."""
        return json.dumps(self.action_parameters)

    def update_training_job_prefix_if_not_specified(self, training_job_name: str) -> None:
        """Take the job's name as prefix where none was given; only StopTraining uses it."""


class StopTraining(Action):
    """Stop the training job.

    Parameters
    ----------
    training_job_prefix : str, optional
        Letters, digits and hyphens; the name of the fitted job when None.

    Raises
    ------
    ValueError
        Another character in the prefix.
    """

    def __init__(self, training_job_prefix: str | None = None) -> None:
        if training_job_prefix is not None:
            expected = "letters, digits and hyphens"
            _require("training_job_prefix", training_job_prefix, r"[A-Za-z0-9-]+", expected)
        self.use_default_training_job_prefix = training_job_prefix is None
        super().__init__(training_job_prefix=training_job_prefix)

    def update_training_job_prefix_if_not_specified(self, training_job_name: str) -> None:
        """Take the job's name as prefix where none was given."""
        if self.use_default_training_job_prefix:
            self.action_parameters["training_job_prefix"] = training_job_name


class Email(Action):
    """Send a mail.

    Parameters
    ----------
    email_address : str
        ``user@host.domain``.

    Raises
    ------
    ValueError
        No address of that form.
    """

    def __init__(self, email_address: str) -> None:
        _require("email_address", email_address, r"[^@\s\"\\]+@[^@\s\"\\]+\.[^@\s\"\\]+", "user@host.domain")
        super().__init__(endpoint=email_address)


class SMS(Action):
    """Send a text message.

    Parameters
    ----------
    phone_number : str
        ``+`` and 10 to 15 digits.

    Raises
    ------
    ValueError
        No number of that form.
    """

    def __init__(self, phone_number: str) -> None:
        _require("phone_number", phone_number, r"\+\d{10,15}", "+ and 10 to 15 digits")
        super().__init__(endpoint=phone_number)


class ActionList:
    """Several actions for one rule.

    Raises
    ------
    TypeError
        Something in it is no action.
    """

    def __init__(self, *actions: Action) -> None:
        for action in actions:
            if not isinstance(action, Action):
                raise TypeError(f"actions must be Action objects, found {type(action).__name__}")
        self.actions = actions

    def update_training_job_prefix_if_not_specified(self, training_job_name: str) -> None:
        """Pass the job's name to every action."""
        for action in self.actions:
            action.update_training_job_prefix_if_not_specified(training_job_name)

    def serialize(self) -> str:
        """Return the actions as a JSON array."""
        return json.dumps([action.action_parameters for action in self.actions])


def is_valid_action_object(actions: object) -> bool:
    """Tell whether ``actions`` is an Action or an ActionList."""
    return isinstance(actions, (Action, ActionList))


def _require(name: str, value: object, pattern: str, expected: str) -> None:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise ValueError(f"{name} is {value!r}; expected {expected}")
