"""A user's ``code/inference.py``: model_fn, input_fn, predict_fn, output_fn, or one transform_fn.

What the module does not define falls back to the behaviour of the Hugging Face container: JSON or CSV
in, ``model(inputs, **parameters)``, JSON or CSV out. Runs in Python, one request at a time per worker;
endpoints without such a file never come here. Facts: the toolkit's public source.
"""

from __future__ import annotations

import csv
import importlib.util
import inspect
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["RequestHandler", "load_user_module"]

_JSON = "application/json"
_CSV = "text/csv"
_NPY = "application/x-npy"


def load_user_module(code: Path, program: str, name: str) -> ModuleType:
    """Import ``code/program`` under a name of its own, so that two endpoints may each have one.

    The folder is put at the front of ``sys.path``: the module's own helper files must be importable.

    Raises
    ------
    FileNotFoundError
        No such file.
    """
    path = code / program
    if not path.is_file():
        raise FileNotFoundError(f"endpoint {name}: the program {program!r} is not in {code}")
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    spec = importlib.util.spec_from_file_location(f"smhf_endpoint_{name.replace('-', '_')}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _accepted(header: str) -> str:
    for part in header.split(","):
        media = _media_type(part)
        if media in ("", "*/*", "application/*"):
            return _JSON
        if media in (_JSON, _CSV, _NPY):
            return media
    return _media_type(header)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an answer holds a {type(value).__name__}, which JSON cannot")


def _decode(body: bytes | str, content_type: str) -> Any:
    media = _media_type(content_type) or _JSON
    if media == _JSON:
        return json.loads(body)
    if media == _CSV:
        text = body if isinstance(body, str) else body.decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        names = set(rows[0]) if rows else set()
        if not names & {"inputs", "question", "context"}:
            raise ValueError("CSV: expected a header line with a column 'inputs', and rows below it")
        return {"inputs": [row["inputs"] for row in rows] if "inputs" in names else rows}
    if media == _NPY:
        import numpy as np

        raw = body.encode("latin-1") if isinstance(body, str) else body
        return np.load(io.BytesIO(raw), allow_pickle=False)
    raise ValueError(f"Content type {content_type} is not supported")


def _encode(prediction: Any, accept: str) -> bytes | str:
    if accept == _JSON:
        return json.dumps(
            prediction, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
    if accept == _CSV:
        rows = prediction if isinstance(prediction, list) else list(prediction)
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()
    if accept == _NPY:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(prediction), allow_pickle=False)
        return buffer.getvalue()
    raise ValueError(f"Accept type {accept} is not supported")


def _predict(data: Any, model: Any) -> Any:
    inputs = data.pop("inputs", data)
    parameters = data.pop("parameters", None)
    return model(inputs) if parameters is None else model(inputs, **parameters)


class RequestHandler:
    """One loaded model with the user's functions around it; called by the server per request.

    Parameters
    ----------
    module : module
        The user's functions.
    model_dir : str
        Passed to ``model_fn``.
    default_model : callable
        ``default_model(model_dir)`` makes the model when the module has no ``model_fn``.

    Raises
    ------
    ValueError
        ``transform_fn`` together with input_fn, predict_fn or output_fn.
    """

    def __init__(self, module: ModuleType, model_dir: str, default_model: Callable[[str], Any]) -> None:
        parts = [getattr(module, name, None) for name in ("input_fn", "predict_fn", "output_fn")]
        self._transform = getattr(module, "transform_fn", None)
        if self._transform is not None and any(part is not None for part in parts):
            raise ValueError(
                f"{module.__file__}: transform_fn replaces input_fn, predict_fn and output_fn; "
                "expected it or them, found both"
            )
        self._input = parts[0] or _decode
        self._predict = parts[1] or _predict
        self._output = parts[2] or _encode
        model_fn = getattr(module, "model_fn", None)
        if model_fn is None:
            self.model = default_model(model_dir)
        elif len(inspect.signature(model_fn).parameters) > 1:
            self.model = model_fn(model_dir, None)
        else:
            self.model = model_fn(model_dir)

    def __call__(
        self, body: bytes, content_type: str, accept: str, custom_attributes: str
    ) -> tuple[bytes | str, str]:
        """Answer one request: (body, content type)."""
        accepted = _accepted(accept)
        data: bytes | str = body
        if _media_type(content_type) in (_JSON, _CSV, ""):
            data = body.decode("utf-8")  # as the container hands text types over
        given = content_type or _JSON
        if self._transform is not None:
            answer = self._transform(self.model, data, given, accepted)
        else:
            answer = self._output(self._predict(self._input(data, given), self.model), accepted)
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
            return answer
        if not isinstance(answer, (str, bytes, bytearray, memoryview)):
            answer = _encode(answer, _JSON)
        return answer, accepted
