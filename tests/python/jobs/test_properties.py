"""Properties over random input: nothing leaves the store, paths map as posixpath says."""

from __future__ import annotations

import os
import posixpath

import pytest

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from smhf_native.jobs import environment, opt_ml  # noqa: E402
from smhf_native.store import Store, parse_uri  # noqa: E402

PARTS = st.sampled_from(["opt", "ml", "opt/ml", ".", "..", "", "model", "x", "mlx", "/", "opt//ml"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_no_key_leaves_the_store(key):
    store = Store("/base/store")
    try:
        path = store.path(f"s3://bucket/{key}")
    except ValueError:
        return
    assert os.path.commonpath([os.path.normpath(path), "/base/store/bucket"]) == "/base/store/bucket"
    assert parse_uri(f"s3://bucket/{key}") == ("bucket", key)


@settings(max_examples=400, deadline=None)
@given(st.lists(PARTS, max_size=8), st.booleans())
def test_paths_map_as_posixpath_normalises_them(parts, absolute):
    text = ("/" if absolute else "") + "/".join(parts)
    opt_ml._base = "/somewhere/job"  # the mapping alone, without the wrappers
    try:
        mapped = opt_ml.real_path(text)
    finally:
        opt_ml._base = None
    full = posixpath.normpath(posixpath.join(os.getcwd(), text))
    full = "/" + full.lstrip("/")
    inside = full == "/opt/ml" or full.startswith("/opt/ml/")
    if inside:
        assert posixpath.normpath(mapped) == posixpath.normpath("/somewhere/job" + full[len("/opt/ml") :])
    else:
        assert mapped == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=10), VALUES, max_size=5))
def test_hyperparameters_survive_the_platform(parameters):
    import json

    encoded = {key: json.dumps(value) for key, value in parameters.items()}
    decoded = environment.decode_hyperparameters(encoded)
    assert decoded == parameters
    arguments = environment.to_arguments(environment.user_hyperparameters(decoded))
    names = [key for key in sorted(parameters) if not key.startswith("sagemaker_")]
    assert [a.lstrip("-") for a in arguments[::2]] == [n.lstrip("-") for n in names]
    for name, shown in zip(names, arguments[1::2], strict=True):
        value = parameters[name]
        if value is None:
            assert shown == ""
        elif not isinstance(value, dict):
            assert shown == str(value)
