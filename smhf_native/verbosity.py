"""Levels of a mirror's loggers under the names that both ``transformers`` and ``datasets`` give them."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Verbosity"]


class Verbosity:
    """The functions of ``utils.logging`` that read and set one logger's level.

    Parameters
    ----------
    logger : returns the mirror's logger; asked anew each time, so that it may be set up at first use
    """

    def __init__(self, logger: Callable[[], logging.Logger]) -> None:
        self._logger = logger

    def get_verbosity(self) -> int:
        """Return the level of the mirror's loggers."""
        return self._logger().getEffectiveLevel()

    def set_verbosity(self, verbosity: int) -> None:
        """Set the level of the mirror's loggers."""
        self._logger().setLevel(verbosity)

    def set_verbosity_info(self) -> None:
        """Show INFO and above."""
        self.set_verbosity(logging.INFO)

    def set_verbosity_warning(self) -> None:
        """Show WARNING and above."""
        self.set_verbosity(logging.WARNING)

    def set_verbosity_debug(self) -> None:
        """Show everything."""
        self.set_verbosity(logging.DEBUG)

    def set_verbosity_error(self) -> None:
        """Show ERROR and above."""
        self.set_verbosity(logging.ERROR)
