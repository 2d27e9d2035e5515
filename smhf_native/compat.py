"""Old names, our rooms: ``import smhf_native.compat`` and the notebook of 2021 runs on.

From then on ``sagemaker``, ``smdebug``, ``transformers`` and ``datasets`` mean the mirrors of this
package in this process, even where the real packages are installed (one line says so), and in local
mode ``boto3.client("sagemaker-runtime")`` reaches the local endpoint.  In an IPython kernel the
shell escapes of old notebooks are minded too (:mod:`smhf_native.shell`).
Nothing on disk and no environment variable of this process changes, except that a kernel's ``PATH``
starts with its own environment's programs.
"""

from __future__ import annotations

from smhf_native.mirrors import MIRRORS, activate, deactivate

__all__ = ["MIRRORS", "activate", "deactivate"]

activate()
