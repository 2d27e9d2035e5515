"""Names of jobs, models and endpoints, made as the SDK makes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["base_name_from_image", "name_from_base", "timestamp"]


def timestamp(now: datetime | None = None) -> str:
    """Return ``YYYY-mm-dd-HH-MM-SS-mmm`` in UTC."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y-%m-%d-%H-%M-%S}-{moment.microsecond // 1000:03d}"


def name_from_base(base: str, max_length: int = 63, now: datetime | None = None) -> str:
    """Return ``base-TIMESTAMP``; the base is cut so that the whole has at most ``max_length`` characters."""
    stamp = timestamp(now)
    return f"{base[: max_length - len(stamp) - 1]}-{stamp}"


def base_name_from_image(image: str) -> str:
    """Return the repository name in an image address, fit for a job name."""
    match = re.match(r"^(?:.+/)?([^:/]+)(?:[:@].+)?$", image)
    return re.sub(r"[^a-zA-Z0-9-]+", "-", match.group(1) if match else image).strip("-") or "job"
