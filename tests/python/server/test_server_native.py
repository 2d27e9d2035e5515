"""Model folders and archives behind the server: everything between socket and logits in C."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny_model

import smhf_native as smhf
from smhf_native.serving import score_function, serve

TEXTS = [
    "the dress was very nice and i love it",
    "bad quality, poor fabric",
    "it is too small",
    "",
    "xyz qqq 123",
    "i bought this shirt and it was a perfect fit " * 3,
]
LONG = "the dress was nice " * 60  # the tiny model takes 64 tokens


def post(url, body, path="/invocations", headers=None):
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(
        "POST", path, json.dumps(body).encode(), headers or {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), json.loads(answer.read())
    connection.close()
    return result


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    build_tiny_model = tiny_model.build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model", num_labels=5)


@pytest.fixture(scope="module")
def tiny_server(tiny):
    with serve(tiny) as server:
        yield server


def softmax(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(tiny):
    """Scores by the Python rooms, one text at a time."""
    tokenizer, model = smhf.Tokenizer.from_pretrained(tiny), smhf.Model.from_pretrained(tiny)

    def scores(text, **options):
        encoding = tokenizer([text], truncation=True, max_length=options.pop("max_length", 64), **options)
        return softmax(model(encoding))[0]

    return scores


def test_scores_are_the_models(tiny_server, expected):
    status, _, rows = post(tiny_server.url, {"inputs": TEXTS, "parameters": {"top_k": None}})
    assert status == 200
    for text, row in zip(TEXTS, rows, strict=True):
        wanted = expected(text)
        given = {entry["label"]: entry["score"] for entry in row}
        assert [given[f"LABEL_{i}"] for i in range(5)] == pytest.approx(list(wanted), abs=1e-6)
        assert [entry["score"] for entry in row] == sorted(given.values(), reverse=True)


def test_a_batch_gives_what_single_requests_give(tiny_server):
    _, _, together = post(tiny_server.url, {"inputs": TEXTS})
    for text, row in zip(TEXTS, together, strict=True):
        (alone,) = post(tiny_server.url, {"inputs": text})[2]
        assert alone["label"] == row["label"]
        assert alone["score"] == pytest.approx(row["score"], abs=1e-6)  # GEMM sums in another order


def test_long_texts_are_cut_and_counted(tiny_server, expected):
    status, headers, rows = post(tiny_server.url, {"inputs": [LONG, "nice", LONG]})
    assert status == 200
    assert headers["X-Smhf-Truncated"] == "2"
    assert rows[0]["score"] == pytest.approx(expected(LONG).max(), abs=1e-6)
    _, headers, _ = post(tiny_server.url, {"inputs": "nice"})
    assert "X-Smhf-Truncated" not in headers
    _, headers, rows = post(
        tiny_server.url, {"inputs": [TEXTS[0]], "parameters": {"max_length": 6, "truncation": True}}
    )
    assert headers["X-Smhf-Truncated"] == "1"
    assert rows[0]["score"] == pytest.approx(expected(TEXTS[0], max_length=6).max(), abs=1e-6)


def test_the_tokenizers_side_of_truncation(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    text = "bad " * 10 + "nice " * 4
    with serve(tmp_path) as server:
        cut = post(server.url, {"inputs": text, "parameters": {"max_length": 6}})[2]
        end = post(server.url, {"inputs": "nice " * 4})[2]
    assert cut[0]["score"] == pytest.approx(end[0]["score"], abs=1e-6)


def test_truncation_off_names_the_row(tiny_server):
    body = {"inputs": ["nice", LONG, "bad"], "parameters": {"truncation": False}}
    status, _, error = post(tiny_server.url, body)
    assert status == 400
    assert error["message"].startswith("inputs[1]: the text has 242 tokens, the model takes 64")
    body["inputs"][1] = "fine"
    assert post(tiny_server.url, body)[0] == 200


def test_functions(tiny, tiny_server):
    tokenizer, model = smhf.Tokenizer.from_pretrained(tiny), smhf.Model.from_pretrained(tiny)
    logits = model(tokenizer([TEXTS[0]]))[0]
    for name, wanted in [
        ("none", logits),
        ("sigmoid", 1 / (1 + np.exp(-logits.astype(np.float64)))),
        ("softmax", softmax(logits[None])[0]),
    ]:
        body = {"inputs": TEXTS[0], "parameters": {"function_to_apply": name, "top_k": None}}
        given = {entry["label"]: entry["score"] for entry in post(tiny_server.url, body)[2]}
        assert [given[f"LABEL_{i}"] for i in range(5)] == pytest.approx(list(wanted), abs=1e-6)


@pytest.mark.parametrize(
    ("config", "labels", "function"),
    [
        ({}, 5, "softmax"),
        ({"problem_type": None}, 2, "softmax"),
        ({}, 1, "sigmoid"),
        ({"problem_type": "multi_label_classification"}, 5, "sigmoid"),
        ({"problem_type": "single_label_classification"}, 5, "softmax"),
        ({"problem_type": "regression"}, 1, "none"),
    ],
)
def test_choice_of_function(config, labels, function):
    assert score_function(config, labels) == function


def test_requests_with_different_options_share_a_batch(tiny, expected):
    """Truncation settings differ, so the join encodes them in groups; nobody notices."""
    bodies = [{"inputs": text, "parameters": {"max_length": 4 + n}} for n, text in enumerate(TEXTS * 4)]
    bodies[5] = {"inputs": LONG, "parameters": {"truncation": False}}
    with serve(tiny) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda body: post(server.url, body), bodies))
    for n, (body, (status, _, rows)) in enumerate(zip(bodies, results, strict=True)):
        if n == 5:
            assert status == 400
            continue
        wanted = expected(body["inputs"], max_length=body["parameters"]["max_length"]).max()
        assert status == 200
        assert rows[0]["score"] == pytest.approx(wanted, abs=1e-6)


def test_shapes_are_the_pipelines(tiny, peer):
    """Every combination of inputs and parameters, against transformers' own pipeline (torch)."""
    peer("torch")
    transformers = peer("transformers")
    pipe = transformers.pipeline("text-classification", model=str(tiny), device="cpu")
    inputs = [
        TEXTS[0],
        [TEXTS[0]],
        TEXTS[:3],
        {"text": TEXTS[0], "text_pair": TEXTS[1]},
        [{"text": TEXTS[0]}, {"text": TEXTS[1], "text_pair": TEXTS[2]}],
    ]
    parameters = [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": None},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none", "top_k": 2},
        {"truncation": True, "max_length": 7},
        {"batch_size": 2},
    ]
    with serve(tiny) as server:
        for given in inputs:
            for options in parameters:
                status, _, answer = post(server.url, {"inputs": given, "parameters": options})
                wanted = json.loads(json.dumps(pipe(given, **options)))
                assert status == 200
                same_shape(answer, wanted)
        # the container's toolkit hands a body without "inputs" over as it is
        same_shape(post(server.url, inputs[3])[2], json.loads(json.dumps(pipe(dict(inputs[3])))))


def same_shape(given, wanted):
    assert type(given) is type(wanted)
    if isinstance(wanted, list):
        assert len(given) == len(wanted)
        for one, other in zip(given, wanted, strict=True):
            same_shape(one, other)
    else:
        assert set(given) == set(wanted) == {"label", "score"}
        assert given["label"] == wanted["label"]
        assert given["score"] == pytest.approx(wanted["score"], abs=2e-5)


def test_archive_is_served_and_cleaned_up(tiny, tmp_path, tiny_server):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in tiny.iterdir():
            tar.add(file, arcname=file.name)
    server = serve(str(archive))
    scratch = Path(server._loaded["model"].scratch.name)
    assert scratch.is_dir()
    assert post(server.url, {"inputs": TEXTS})[2] == post(tiny_server.url, {"inputs": TEXTS})[2]
    server.stop()
    assert not scratch.exists()


def test_pytorch_weights_are_converted(tiny, tmp_path, tiny_server, peer):
    torch = peer("torch")
    from safetensors.torch import load_file

    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(str(tiny / "model.safetensors")), tmp_path / "pytorch_model.bin")
    before = sorted(path.name for path in tmp_path.iterdir())
    with serve(tmp_path) as server:
        assert post(server.url, {"inputs": TEXTS})[2] == post(tiny_server.url, {"inputs": TEXTS})[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # the model's folder is left alone


def test_hostile_archive_is_refused(tmp_path):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("../outside")
        entry.size = 0
        tar.addfile(entry)
    with pytest.raises(ValueError, match=r"\.\."):
        serve(archive)
    assert not (tmp_path.parent / "outside").exists()


def test_what_is_missing_is_named(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere.tar.gz"):
        serve(tmp_path / "nowhere.tar.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither config.json nor code/inference.py"):
        serve(tmp_path / "empty")
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    words = (other / "vocab.txt").read_text() + "".join(f"extra{n}\n" for n in range(50))
    (other / "vocab.txt").write_text(words)
    with pytest.raises(ValueError, match="do not fit each other"):
        serve(other)


def test_labels_of_the_config(tmp_path):
    build_tiny_model = tiny_model.build_tiny_model

    folder = build_tiny_model(tmp_path / "named", labels=["süß", 'a "b"', "c,d"])
    with serve(folder) as server:
        rows = post(server.url, {"inputs": TEXTS, "parameters": {"top_k": None}})[2]
    assert {entry["label"] for entry in rows[0]} == {"süß", 'a "b"', "c,d"}


def test_the_gil_is_not_needed(tiny):
    """The serving process's main thread keeps the GIL for good; answers come all the same."""
    program = textwrap.dedent(
        """
        import sys
        from smhf_native.serving import serve

        server = serve(sys.argv[1])
        print(server.url, flush=True)
        sys.setswitchinterval(1e6)
        while True:
            pass
        """
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", program, str(tiny)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = process.stdout.readline().strip()
            for _ in range(3):
                status, _, rows = post(url, {"inputs": TEXTS})
                assert (status, len(rows)) == (200, len(TEXTS))
        finally:
            process.kill()


HANDLERS = {
    "all": """
import helper_of_handler
def model_fn(model_dir):
    return {"dir": model_dir}
def input_fn(body, content_type):
    assert isinstance(body, str) and content_type == "application/json"
    return helper_of_handler.parse(body)
def predict_fn(data, model):
    return {"echo": data, "has_config": __import__("os").path.exists(model["dir"] + "/config.json")}
def output_fn(prediction, accept):
    return __import__("json").dumps(prediction)
""",
    "transform": """
def model_fn(model_dir, context):
    return 3
def transform_fn(model, data, content_type, accept):
    return str(model * len(data)), "text/plain"
""",
    "raises": """
def model_fn(model_dir):
    return None
def predict_fn(data, model):
    raise RuntimeError("the handler's own words")
""",
    "default_output": """
import numpy
def model_fn(model_dir):
    return lambda inputs, **parameters: {"n": numpy.int64(len(inputs)), "p": parameters}
""",
}


@pytest.fixture
def handler_server(tiny, tmp_path, request):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(HANDLERS[request.param])
    (folder / "code" / "helper_of_handler.py").write_text("import json\nparse = json.loads\n")
    with serve(folder) as server:
        yield server


@pytest.mark.parametrize("handler_server", ["all"], indirect=True)
def test_user_functions(handler_server):
    status, _, answer = post(handler_server.url, {"any": ["thing", 1]})
    assert (status, answer) == (200, {"echo": {"any": ["thing", 1]}, "has_config": True})


@pytest.mark.parametrize("handler_server", ["transform"], indirect=True)
def test_transform_fn(handler_server):
    status, headers, answer = post(handler_server.url, "12345678")
    assert (status, headers["Content-Type"], answer) == (200, "text/plain", 30)


@pytest.mark.parametrize("handler_server", ["raises"], indirect=True)
def test_handler_errors_are_400(handler_server):
    status, _, error = post(handler_server.url, {"inputs": "a"})
    assert (status, error["code"]) == (400, 400)
    assert error["message"] == "the handler's own words"


@pytest.mark.parametrize("handler_server", ["default_output"], indirect=True)
def test_defaults_around_a_users_model(handler_server):
    body = {"inputs": ["a", "b"], "parameters": {"k": 1}}
    assert post(handler_server.url, body)[2] == {"n": 2, "p": {"k": 1}}


def test_transform_and_predict_together_are_refused(tiny, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(
        "def model_fn(d): return 1\ndef transform_fn(m, d, c, a): ...\ndef predict_fn(d, m): ...\n"
    )
    with pytest.raises(ValueError, match="transform_fn replaces"):
        serve(tmp_path)


def test_hf_task_of_another_kind_is_refused(tiny):
    from smhf_native.serving import load_model

    with pytest.raises(ValueError, match="HF_TASK='fill-mask'"):
        load_model(tiny, environment={"HF_TASK": "fill-mask"})
