"""``datasets.utils``: verbosity and progress switches that scripts call."""

from __future__ import annotations

from smhf_native.datasets.utils import logging

__all__ = ["disable_progress_bar", "disable_progress_bars", "logging"]


def disable_progress_bars() -> None:
    """Do nothing: reading and mapping show no bars here."""


disable_progress_bar = disable_progress_bars
