"""Endpoints by name: registry, host process, deploy, predictor, boto3 in local mode."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import urllib.request

import numpy as np
import pytest
import tiny_model

from smhf_native import endpoints
from smhf_native.huggingface.local_runtime import EndpointError
from smhf_native.huggingface.model import HuggingFaceModel
from smhf_native.huggingface.predictor import HuggingFacePredictor
from smhf_native.jobs import endpoint_host
from smhf_native.session import Session

VERSIONS = {"transformers_version": "4.6", "pytorch_version": "1.7", "py_version": "py36"}
ON_THIS_MACHINE = {"initial_instance_count": 1, "instance_type": "ml.m5.xlarge"}
TEXT = "the dress was very nice"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model.build_tiny_model(tmp_path_factory.mktemp("tiny") / "model", num_labels=5)


@pytest.fixture(scope="module")
def archive(tiny):
    path = tiny.parent / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(tiny.iterdir()):
            tar.add(file, arcname=file.name)
    return path


@pytest.fixture(scope="module")
def local_home(tmp_path_factory):
    """A home of its own for the module, and one endpoint host that ends with it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SMHF_HOME", str(tmp_path_factory.mktemp("home")))
    patch.delenv("SMHF_MODE", raising=False)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID"):
        patch.delenv(name, raising=False)
    yield endpoints.home()
    if endpoint_host._host is not None:
        endpoint_host._host.close()
        endpoint_host._host = None
    patch.undo()


@pytest.fixture(scope="module")
def session(local_home):
    return Session(mode="local")


@pytest.fixture(scope="module")
def deployed(session, archive):
    uri = session.upload_data(str(archive), key_prefix="trained/output")
    model = HuggingFaceModel(model_data=uri, role="any", sagemaker_session=session, **VERSIONS)
    predictor = model.deploy(endpoint_name="deployed-one", **ON_THIS_MACHINE)
    yield predictor
    if any(record.name == "deployed-one" for record in endpoints.list_endpoints()):
        predictor.delete_endpoint()


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.02)


# --- deploy and predict ---------------------------------------------------------------------------


def test_predict_as_the_notebook_does(deployed, session):
    pred = deployed.predict({"inputs": TEXT})[0]
    assert set(pred) == {"label", "score"}
    assert 0 <= int(pred["label"].replace("LABEL_", "")) < 5
    again = HuggingFacePredictor(endpoint_name="deployed-one", sagemaker_session=session)
    assert again.predict(data={"inputs": [TEXT]})[0] == pred
    assert again.content_type == "application/json"
    assert again.accept == ("application/json",)


def test_deploy_prints_as_the_sdk(session, archive, capsys):
    model = HuggingFaceModel(model_data=str(archive), sagemaker_session=session, **VERSIONS)
    predictor = model.deploy(**ON_THIS_MACHINE)
    assert capsys.readouterr().out.strip("-") == "!\n"
    assert predictor.endpoint_name.startswith("huggingface-pytorch-inference-")
    assert predictor.predict({"inputs": TEXT})
    predictor.delete_model()
    predictor.delete_endpoint()
    with pytest.raises(endpoints.EndpointNotFoundError, match="no local endpoint"):
        predictor.predict({"inputs": TEXT})


def test_one_host_many_names(deployed, session, tiny):
    other = HuggingFaceModel(model_data=tiny, sagemaker_session=session, **VERSIONS).deploy(
        endpoint_name="second", **ON_THIS_MACHINE
    )
    records = {record.name: record for record in endpoints.list_endpoints(check=True)}
    assert {"deployed-one", "second"} <= set(records)
    assert records["second"].port == records["deployed-one"].port
    assert records["second"].pid == records["deployed-one"].pid == endpoint_host.host_process()
    assert records["second"].host_pid == os.getpid()
    assert other.predict({"inputs": TEXT}) == deployed.predict({"inputs": TEXT})
    with pytest.raises(ValueError, match="one of this name is up"):
        HuggingFaceModel(model_data=tiny, sagemaker_session=session, **VERSIONS).deploy(
            endpoint_name="second", **ON_THIS_MACHINE
        )
    other.delete_endpoint()
    assert [record.name for record in endpoints.list_endpoints()] == ["deployed-one"]


def test_endpoint_errors_name_the_model(deployed):
    with pytest.raises(EndpointError, match="ModelError") as caught:
        deployed.predict({"inputs": "nice " * 100, "parameters": {"truncation": False}})
    assert caught.value.status == 424
    assert caught.value.original_status == 400
    assert "inputs: the text has 102 tokens" in caught.value.original_message
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert deployed.predict({"inputs": TEXT})  # the connection is fine


def test_cut_texts_are_told_once(session, deployed):
    from smhf_native.huggingface import local_runtime

    local_runtime._told.clear()
    fresh = HuggingFacePredictor("deployed-one", session)
    with pytest.warns(UserWarning, match="1 text\\(s\\) were longer"):
        fresh.predict({"inputs": "nice " * 100})
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.predict({"inputs": "nice " * 100})


def test_nan_is_named(deployed):
    with pytest.raises(ValueError, match=r"data\['inputs'\]\[1\] is NaN"):
        deployed.predict({"inputs": ["fine", float("nan")]})


def test_other_serializers(deployed, session):
    from smhf_native.deserializers import CSVDeserializer, PandasDeserializer
    from smhf_native.serializers import CSVSerializer

    predictor = HuggingFacePredictor("deployed-one", session, CSVSerializer(), CSVDeserializer())
    rows = predictor.predict([["inputs"], [TEXT], ["bad, really"]])
    assert rows[0] == ["label", "score"]
    assert len(rows) == 3
    predictor.deserializer = PandasDeserializer()
    frame = predictor.predict([["inputs"], [TEXT]])
    assert list(frame.columns) == ["label", "score"]


def test_proxy_settings_are_not_used(deployed, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert deployed.predict({"inputs": TEXT})


def test_entry_point_is_packed_with_the_model(session, archive, tmp_path, monkeypatch):
    source = tmp_path / "src"
    (source / "inner").mkdir(parents=True)
    (source / "serve.py").write_text(
        "import os, json\nfrom inner import words\n"
        "def model_fn(model_dir):\n    return sorted(os.listdir(model_dir))\n"
        "def predict_fn(data, model):\n"
        "    return {'files': model, 'word': words.WORD, 'flag': os.environ['MY_FLAG']}\n"
    )
    (source / "inner" / "words.py").write_text("WORD = 'inner word'\n")
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "m.py").write_text("x = 1\n")
    model = HuggingFaceModel(
        model_data=str(archive), entry_point="serve.py", source_dir=str(source), dependencies=[str(extra)],
        env={"MY_FLAG": "up"}, name="my-model", sagemaker_session=session, **VERSIONS,
    )  # fmt: skip
    predictor = model.deploy(endpoint_name="with-code", **ON_THIS_MACHINE)
    try:
        answer = predictor.predict({"inputs": "x"})
        assert answer["word"] == "inner word"
        assert answer["flag"] == "up"
        assert {"code", "config.json", "model.safetensors"} <= set(answer["files"])
        assert model.repacked_model_data == f"s3://{session.default_bucket()}/my-model/model.tar.gz"
        with tarfile.open(session.store.path(model.repacked_model_data)) as tar:
            names = tar.getnames()
        assert {"code/serve.py", "code/inner/words.py", "code/lib/extra/m.py", "config.json"} <= set(names)
    finally:
        predictor.delete_endpoint()


def test_what_deploy_refuses(session, archive, tmp_path):
    from smhf_native.huggingface.inference_configs import AsyncInferenceConfig, ServerlessInferenceConfig

    model = HuggingFaceModel(model_data=str(archive), sagemaker_session=session, **VERSIONS)
    with pytest.raises(ValueError, match="AsyncInferenceConfig"):
        model.deploy(async_inference_config=AsyncInferenceConfig("s3://b/k"), **ON_THIS_MACHINE)
    with pytest.raises(ValueError, match="instance_type and initial_instance_count"):
        model.deploy()
    with pytest.raises(TypeError, match="surprise"):
        model.deploy(surprise=1, **ON_THIS_MACHINE)
    missing = HuggingFaceModel(
        model_data="s3://bucket/none/model.tar.gz", sagemaker_session=session, **VERSIONS
    )
    with pytest.raises(FileNotFoundError, match=r"none/model\.tar\.gz"):
        missing.deploy(endpoint_name="never", **ON_THIS_MACHINE)
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"this is no archive")
    with pytest.raises(ValueError, match="broken"):
        HuggingFaceModel(model_data=str(broken), sagemaker_session=session, **VERSIONS).deploy(
            endpoint_name="never", **ON_THIS_MACHINE
        )
    for arguments, word in [
        ({}, "model_data"),
        ({"model_data": "x"}, "transformers_version"),
        ({"model_data": "x", "transformers_version": "4.6"}, "pytorch_version"),
        ({"model_data": "x", "transformers_version": "4.6", "pytorch_version": "1.7"}, "py_version"),
        ({"model_data": "x", **VERSIONS, "git_config": {"repo": "r"}}, "git_config"),
    ]:
        with pytest.raises(ValueError, match=word):
            HuggingFaceModel(sagemaker_session=session, **arguments)
    served = model.deploy(serverless_inference_config=ServerlessInferenceConfig(), endpoint_name="less")
    assert served.predict({"inputs": TEXT})
    served.delete_endpoint()
    assert not [record for record in endpoints.list_endpoints() if record.name == "never"]


# --- life and death of the host -------------------------------------------------------------------

KERNEL = textwrap.dedent(
    """
    import os, sys, time
    from smhf_native.jobs import endpoint_host
    name, source, keep = sys.argv[1:4]
    endpoint_host.add_endpoint(name, source, keep=keep == "keep")
    print(endpoint_host.host_process(), flush=True)
    if len(sys.argv) > 4:
        time.sleep(600)
    """
)


def start_kernel(tmp_path, *arguments):
    program = tmp_path / "kernel.py"
    program.write_text(KERNEL)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def alive(pid):
    from smhf_native.jobs import processes

    return processes.identity(pid) is not None


def test_host_ends_with_its_kernel(local_home, tiny, tmp_path):
    with start_kernel(tmp_path, "orderly", str(tiny), "drop") as kernel:
        host = int(kernel.stdout.readline())
        assert kernel.wait(30) == 0
    wait_until(lambda: not alive(host))
    assert not [record for record in endpoints.list_endpoints() if record.name == "orderly"]


def test_host_ends_with_a_killed_kernel(local_home, tiny, tmp_path):
    with start_kernel(tmp_path, "killed", str(tiny), "drop", "stay") as kernel:
        host = int(kernel.stdout.readline())
        record = endpoints.find("killed")
        assert record.pid == host
        kernel.kill()
    wait_until(lambda: not alive(host))
    with pytest.raises(endpoints.EndpointNotFoundError):
        endpoints.find("killed")
    assert not (endpoints.folder() / "killed.json").exists()


def test_kept_endpoint_outlives_its_kernel(local_home, session, tiny, tmp_path):
    with start_kernel(tmp_path, "kept", str(tiny), "keep") as kernel:
        host = int(kernel.stdout.readline())
        assert kernel.wait(30) == 0
    time.sleep(0.3)
    predictor = HuggingFacePredictor("kept", session)  # another process finds it by name
    assert predictor.predict({"inputs": TEXT})
    endpoints.stop_endpoint("kept")
    wait_until(lambda: not alive(host))
    with pytest.raises(endpoints.EndpointNotFoundError, match="'kept'"):
        endpoints.stop_endpoint("kept")


def test_sigterm_ends_the_host_in_order(local_home, tiny, tmp_path):
    with start_kernel(tmp_path, "term", str(tiny), "keep") as kernel:
        host = int(kernel.stdout.readline())
        kernel.wait(30)
    os.kill(host, signal.SIGTERM)
    wait_until(lambda: not alive(host))
    assert not (endpoints.folder() / "term.json").exists()


def test_stale_record_counts_as_absent(local_home, session):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as done:
        pass
    path = endpoints.folder() / "stale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"name": "stale", "url": "http://127.0.0.1:9", "port": 9, "pid": done.pid, "host_pid": 1,
              "model_data": "x", "created": 1.0, "identity": "boot:1"}  # fmt: skip
    path.write_text(json.dumps(record))
    with pytest.raises(endpoints.EndpointNotFoundError, match="has ended"):
        HuggingFacePredictor("stale", session).predict({"inputs": TEXT})
    assert not path.exists()
    # a pid that runs again, but as another process
    path.write_text(json.dumps({**record, "pid": os.getpid()}))
    assert "stale" not in [entry.name for entry in endpoints.list_endpoints()]
    assert not path.exists()
    # a live process that does not answer
    endpoints.register(endpoints.EndpointRecord.of_this_process("mute", "http://127.0.0.1:9", 9, "x"))
    assert "mute" in [entry.name for entry in endpoints.list_endpoints()]
    assert "mute" not in [entry.name for entry in endpoints.list_endpoints(check=True)]
    endpoints.forget("mute")


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "../x", "a" * 64, "a b", "ä"])
def test_names_are_checked(local_home, name):
    with pytest.raises(ValueError, match="1-63 letters"):
        endpoints.find(name)


def test_serve_with_a_name_is_found_and_stopped(local_home, session, tiny):
    from smhf_native.serving import serve

    server = serve(tiny, name="by-hand")
    try:
        assert HuggingFacePredictor("by-hand", session).predict({"inputs": TEXT})
        with urllib.request.urlopen(f"{server.url}/ping", timeout=5) as answer:
            assert answer.status == 200
        endpoints.stop_endpoint("by-hand")
        assert not server.running
    finally:
        server.stop()


# --- serializers against their contract -------------------------------------------------------------


def test_json_serializer():
    from smhf_native.deserializers import JSONDeserializer
    from smhf_native.serializers import JSONSerializer

    serializer = JSONSerializer()
    assert json.loads(serializer.serialize({"a": np.arange(3), "b": "x"})) == {"a": [0, 1, 2], "b": "x"}
    assert json.loads(serializer.serialize(np.ones((2, 2)))) == [[1.0, 1.0], [1.0, 1.0]]
    assert serializer.serialize(io.StringIO("raw")) == "raw"
    with pytest.raises(TypeError):
        serializer.serialize({"inputs": [np.int64(3)]})
    stream = io.BytesIO('{"ü": 1}'.encode())
    assert JSONDeserializer().deserialize(stream, "application/json") == {"ü": 1}
    assert stream.closed


def test_numpy_serializer_round_trip():
    from smhf_native.deserializers import NumpyDeserializer
    from smhf_native.serializers import NumpySerializer

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = NumpySerializer().serialize(array)
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), array)
    back = NumpyDeserializer().deserialize(io.BytesIO(data), "application/x-npy")
    np.testing.assert_array_equal(back, array)
    with pytest.raises(ValueError):
        NumpySerializer().serialize(np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="unpickling"):
        NumpyDeserializer(allow_pickle=True)


def test_requirements_of_handlers(session, archive, tmp_path, monkeypatch):
    monkeypatch.delenv("SMHF_ALLOW_PIP", raising=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text("def model_fn(d):\n    return lambda x: 'ok'\n")
    listed = tmp_path / "code" / "requirements.txt"
    listed.write_text("transformers==4.6\nnumpy\nsurely-not-a-package-of-anybody>=1\n")
    model = HuggingFaceModel(model_data=tmp_path, sagemaker_session=session, **VERSIONS)
    with pytest.raises(ValueError, match="surely-not-a-package-of-anybody>=1"):
        model.deploy(endpoint_name="needs-more", **ON_THIS_MACHINE)
    listed.write_text("transformers==4.6\nnumpy\n")
    predictor = model.deploy(endpoint_name="needs-more", **ON_THIS_MACHINE)
    assert predictor.predict({"inputs": "x"}) == "ok"
    predictor.delete_endpoint()


def test_hub_name_is_looked_up(session, tiny, monkeypatch, tmp_path):
    """HF_MODEL_ID without model_data, from a hub cache laid out as the hub's own."""
    snapshot = tmp_path / "hub" / "models--some--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for file in tiny.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    from smhf_native.serving import load_model

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = load_model("", environment={"HF_MODEL_ID": "some/tiny", "HF_TASK": "text-classification"})
    assert loaded.labels == [f"LABEL_{i}" for i in range(5)]
    with pytest.raises(OSError, match="some/other"):
        load_model("", environment={"HF_MODEL_ID": "some/other"})


def test_clients_see_local_endpoints(deployed, session):
    description = session.sagemaker_client.describe_endpoint(EndpointName="deployed-one")
    assert description["EndpointStatus"] == "InService"
    names = [each["EndpointName"] for each in session.sagemaker_client.list_endpoints()["Endpoints"]]
    assert "deployed-one" in names
