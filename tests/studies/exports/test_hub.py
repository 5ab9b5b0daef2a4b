"""The card as the Hugging Face Hub reads it, and an upload to a server on this machine that answers as the Hub does."""

import base64
import json
import shutil
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from landscapes import tiny_net, tiny_space, tiny_task

import secateur as sc
from secateur.studies.disk.files import FormatError
from secateur.studies.exports.card import _yaml, card
from secateur.studies.exports.exporter import _judged

yaml = pytest.importorskip("yaml")
hub = pytest.importorskip("huggingface_hub")

TOKEN = "hf_notATokenOfAnyone"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = tiny_net()
    space = tiny_space(model)
    candidate = space.uniform(0.5)
    folder = tmp_path_factory.mktemp("hub") / "net"
    notes = {"license": "apache-2.0", "errors": {"test_error": 0.00001, "validation_error": 0.25}}
    given = {"model": model, "space": space, "candidate": candidate, "formats": ["safetensors"]}
    sc.save(folder, sc.build(model, space, candidate), notes=notes | _judged(tiny_task()), **given)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "net")


@pytest.fixture
def server():
    """A hub with no repository; `refuse` is the status of its answers, where it is to refuse."""
    made = HTTPServer(("127.0.0.1", 0), Answers)
    made.refuse, made.echo, made.private, made.calls, made.files = 0, "", None, [], {}
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.server.refuse:
            return self.answer({"error": "not for you"}, self.server.refuse)
        self.answer({"id": "me/net", "private": self.server.private})

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        host = f"http://127.0.0.1:{server.server_port}"
        server.calls.append((self.path, self.headers["Authorization"]))
        if server.refuse:
            echo = server.echo and self.headers["Authorization"]
            return self.answer({"error": f"no, {echo}, never\nfor you"}, server.refuse)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            server.private = asked.get("visibility") == "private" if server.private is None else server.private
            return self.answer({"url": f"{host}/me/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            read = hub.ModelCard(json.loads(body)["content"]).data
            errors = [] if read.license else [{"message": "no licence"}]
            return self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        if "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{host}/me/net/commit/0"})

    def chunks(self):
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, said, status=200):
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said):
        pass


def push(server, folder, repo="net", **given):
    return sc.push_to_hub(
        folder, repo, **{"token": TOKEN, "endpoint": f"http://127.0.0.1:{server.server_port}"} | given
    )


def test_what_was_exported_arrives_byte_for_byte(server, folder):
    (folder / "secrets.env").write_text("not of the export")
    with (folder / "README.md").open("a") as file:
        file.write("More for people.\n")
    found = push(server, folder, private=True)
    assert found.endswith("/me/net") and server.private is True
    assert {name: (folder / name).read_bytes() for name in ("README.md", "config.json", "model.safetensors")} == (
        server.files
    )
    assert {said for _, said in server.calls} == {f"Bearer {TOKEN}"}
    arrived = folder.parent / "arrived"
    arrived.mkdir()
    for name, data in server.files.items():
        (arrived / name).write_bytes(data)
    full, x = tiny_net(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(sc.load(arrived, full)(x), sc.load(folder, full)(x))


def test_nothing_goes_to_a_repository_that_others_see_though_a_private_one_was_asked_for(server, folder):
    server.private = False
    with pytest.raises(ValueError, match="me/net is there already and is public; nothing was uploaded"):
        push(server, folder, private=True)
    assert not server.files
    push(server, folder)
    assert server.files


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "hf auth login"), (403, "token that may write there"), (400, "try again")]
)
def test_a_refusal_is_one_sentence_without_the_token(server, folder, status, mend, capfd):
    server.refuse, server.echo = status, True
    with pytest.raises(OSError, match="did not take me/net") as caught:
        push(server, folder, "me/net")
    said = str(caught.value)
    assert mend in said and "\n" not in said and "127.0.0.1" in said
    shown = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr())
    assert TOKEN not in shown and not server.files


def test_a_server_that_is_not_there(folder):
    with pytest.raises(OSError, match="did not take me/net"):
        sc.push_to_hub(folder, "me/net", token=TOKEN, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("repo", ["", "a/b/c", "me/with space", "-me/net", "me/net.git", 3, None])
def test_a_name_that_no_repository_has(folder, repo):
    with pytest.raises(ValueError, match="expected 'name' or 'owner/name'"):
        sc.push_to_hub(folder, repo, token=TOKEN)


@pytest.mark.parametrize("token", ["", " ", f"{TOKEN}\n", "hf_ü", True])
def test_a_token_that_is_none_is_not_shown(folder, token):
    with pytest.raises(ValueError, match="copy it once more") as caught:
        sc.push_to_hub(folder, "net", token=token)
    assert TOKEN not in str(caught.value)


def test_what_is_no_whole_export_stays_here(server, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        push(server, tmp_path / "none")
    with pytest.raises(FormatError, match="is not an exported network"):
        push(server, tmp_path)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(FormatError, match="was changed"):
        push(server, folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="lacks model.safetensors"):
        push(server, folder)
    assert not server.calls


def test_the_package_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'secateur\[hub\]'"):
        sc.push_to_hub(folder, "net")


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_hub_reads_licence_task_and_figures(exported):
    read = hub.ModelCard((exported / "README.md").read_text()).data
    assert read.license == "apache-2.0" and read.library_name == "secateur" and "pruned" in read.tags
    assert read.pipeline_tag == "image-classification" and read.metrics == ["error_rate"]
    figures = {one.dataset_split: (one.metric_type, one.metric_name, one.metric_value) for one in read.eval_results}
    assert figures == {
        "test": ("error_rate", "test_error", 0.00001),
        "validation": ("error_rate", "validation_error", 0.25),
    }


def test_what_is_not_known_is_left_out(exported):
    config = json.loads((exported / "config.json").read_text())
    for name in ("license", "task", "metric", "errors"):
        del config[name]
    read = hub.ModelCard(card(config, [])).data
    assert [read.license, read.pipeline_tag, read.metrics, read.eval_results] == [None] * 4
    data = hub.ModelCard(card(config | {"errors": {"test_error": 0.5}, "dataset": "mine: #1"}, [])).data
    assert data.eval_results[0].dataset_name == "mine: #1" and data.eval_results[0].task_type == "other"


@pytest.mark.parametrize("name", ['a "b": {c}', "x\n---\ny", "\u2028\x85\x7f\ufeff", "\U0001f333é", "no", "\\U", ""])
def test_any_name_is_a_text_again(exported, name):
    config = json.loads((exported / "config.json").read_text()) | {"key": name, "license": name, "metric": name}
    front = card(config | {"fingerprint": {name: name}}, []).split("\n---\n")[0]
    read = yaml.safe_load(front)
    assert read["key"] == read["license"] == name and read["fingerprint"] == {name: name}


@pytest.mark.parametrize("value", [1e-05, 1e22, 0.1, -2.5e-9, 3, True, None, float("inf"), [], {}, [{"a": [1.0]}]])
def test_values_are_read_as_they_are(value):
    assert yaml.safe_load(_yaml(value)) == value and type(yaml.safe_load(_yaml(value))) is type(value)


def test_a_licence_that_is_no_text(tmp_path):
    model = tiny_net()
    space = tiny_space(model)
    with pytest.raises(ValueError, match="'license' is 7; expected a text"):
        sc.save(tmp_path / "a", model, model=model, space=space, candidate=space.full, notes={"license": 7})


def test_every_task_says_what_it_is():
    images, masks = torch.rand(4, 1, 8, 8), torch.arange(4).view(4, 1, 1).expand(4, 8, 8) % 2
    labels, rows = torch.arange(4) % 2, torch.rand(4, 3)

    def told(kind, inputs, targets, **given):
        found = _judged(kind(train=(inputs, targets), validation=(inputs, targets), **given))
        return found["task"], found["metric"]

    def accuracy(outputs, targets):
        return (outputs.argmax(1) == targets).float().mean()

    assert told(sc.Classification, images, labels) == ("image-classification", "error_rate")
    assert told(sc.Classification, rows, labels) == ("tabular-classification", "error_rate")
    assert told(sc.Segmentation, images, masks, overlap="dice") == ("image-segmentation", "1 - mean dice")
    assert told(sc.MultiLabel, images, labels) == ("image-classification", "1 - mean average precision")
    assert told(sc.Regression, images, rows) == ("image-regression", "1 - R^2")
    assert told(sc.Classification, images, labels, metric=accuracy, maximise=True)[1] == "1 - accuracy"
