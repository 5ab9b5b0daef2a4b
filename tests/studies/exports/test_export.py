import copy
import errno
import json
import logging
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from networks import network
from torch import nn
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.spaces import Cut, Space, build, cut, named_tensors, plain
from secateur.spaces.graph.network import as_call
from secateur.studies.disk.files import new_folder, read_json, to_json, write_atomic
from secateur.studies.exports.conversion import Wanted, onnx_installed
from secateur.studies.exports.model import FormatError, load, write_model

needs_onnx = pytest.mark.skipif(not onnx_installed(), reason="the onnx extra is not installed")


def example_of(space, candidate, batch):
    return space.inputs(nn.Linear(1, 1), candidate, batch=batch)


def outputs(model, inputs):
    args, kwargs = as_call(pytree.tree_map(torch.clone, inputs))
    with torch.no_grad():
        return pytree.tree_leaves(model(*args, **kwargs))


def pruned(name="plain", **ratios):
    """(full, small, space, candidate, example of two) in single precision."""
    full, example = network(name)
    full, example = full.float(), pytree.tree_map(lambda tensor: tensor.float(), example)
    space = Space.trace(full, example, divisor=1)
    candidate = space.uniform(**{"width": 0.5, **ratios})
    return full, build(full, space, candidate), space, candidate, example_of(space, candidate, 2)


def export(folder, made, **options):
    full, small, space, candidate, example = made
    formats = options.pop("formats", ("pt2",))
    options = {"record": {"key": candidate.key}, "wanted": Wanted(formats), **options}
    return write_model(folder, model=small, full=full, example=example, cut=cut(space, candidate), **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder to read; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("export") / "plain"
    made = pruned("plain")
    export(folder, made)
    return folder, made


@pytest.fixture
def spoiled(exported, tmp_path):
    folder, (full, *_) = exported
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", full


@pytest.mark.parametrize(
    "name", ["residual", "residual1d", "unet3d", "mobile", "grouped", "dense", "shared", "branchy"]
)
def test_both_ways_of_loading_give_the_network_that_was_exported(name, tmp_path):
    made = full, small, space, candidate, _ = pruned(name, depth=0.5)
    figures = export(tmp_path / "net", made)
    assert figures["batches"] == [1, 3] and figures["tolerance"] == 1e-4
    for form in ("safetensors", "pt2"):
        assert max(figures[form].values()) <= 1e-4
    other = copy.deepcopy(full)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    for loaded in (load(tmp_path / "net", model=other), load(tmp_path / "net")):
        for batch in (1, 5):
            inputs = example_of(space, candidate, batch)
            for one, expected in zip(outputs(loaded, inputs), outputs(small, inputs), strict=True):
                torch.testing.assert_close(one, expected)


@needs_onnx
@pytest.mark.parametrize("name", ["residual", "branchy"])
def test_onnx_is_one_file_with_a_free_batch(name, tmp_path, capsys, caplog):
    import onnxruntime

    made = _, small, space, candidate, _ = pruned(name)
    figures = export(tmp_path / "net", made, formats=("pt2", "onnx"))
    assert max(figures["onnx"].values()) <= 1e-4
    assert not "".join(capsys.readouterr())
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    session = onnxruntime.InferenceSession(tmp_path / "net" / "model.onnx", providers=["CPUExecutionProvider"])
    assert {value.shape[0] for value in session.get_inputs()} == {"batch"}
    inputs = example_of(space, candidate, 5)
    names = [value.name for value in session.get_inputs()]
    arrays = [tensor.numpy() for tensor in pytree.tree_leaves(inputs)]
    for one, expected in zip(
        session.run(None, dict(zip(names, arrays, strict=True))), outputs(small, inputs), strict=True
    ):
        torch.testing.assert_close(torch.as_tensor(one), expected, rtol=1e-4, atol=1e-5)


def test_the_folder_holds_all_that_loading_needs(exported):
    folder, (full, small, space, candidate, _) = exported
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.pt2", "model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    config = read_json(folder / "config.json")
    changes = cut(space, candidate)
    assert config["format"] == "secateur-model" and config["format_version"] == 1
    assert config["key"] == candidate.key and config["dtype"] == "float32"
    assert config["attributes"] == changes.attributes and config["removed"] == list(changes.removed)
    assert config["kept"] == {
        name: {str(axis): indices.tolist() for axis, indices in axes.items()} for name, axes in changes.kept.items()
    }
    assert config["full_shapes"] == {name: list(tensor.shape) for name, tensor in named_tensors(full).items()}
    assert config["shapes"] == {name: list(tensor.shape) for name, tensor in named_tensors(small).items()}
    assert set(config["verified"]) == {"tolerance", "batches", "safetensors", "pt2"}
    assert config["versions"]["torch"] == torch.__version__
    assert config["inputs"] == [{"shape": ["batch", 3, 12, 12], "dtype": "float32"}]
    assert re.search(r'"conv1.weight": \{\n\s+"0": \[\d+, [\d, ]+\]', (folder / "config.json").read_text())
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "secateur"\n') and candidate.key in card


def test_paths_of_the_users_sources_stay_at_home(exported):
    folder, _ = exported
    for path in folder.iterdir():
        assert b".py" not in path.read_bytes()


def test_nothing_that_was_given_is_changed(tmp_path):
    made = full, small, *_, example = pruned("plain")
    small.train()
    small.bn1.eval()
    small.conv1.weight.requires_grad_(False)
    before = [tensor.clone() for tensor in [*full.state_dict().values(), *small.state_dict().values(), *example]]
    export(tmp_path / "net", made)
    after = [*full.state_dict().values(), *small.state_dict().values(), *example]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert small.training and not small.bn1.training and small.bn2.training and small.conv2.weight.requires_grad
    loaded = load(tmp_path / "net", model=full.train())
    assert full.training and not any(module.training for module in loaded.modules())
    assert type(loaded) is type(full) and loaded.conv1.weight.requires_grad


def test_the_program_is_a_module_in_eval_mode(exported):
    folder, _ = exported
    program = load(folder)
    assert program.eval() is program and not program.training
    assert program(torch.rand(2, 3, 12, 12)).numpy().shape == (2, 5)
    with pytest.raises(RuntimeError, match="12"):
        program(torch.rand(2, 3, 13, 13))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    made = full, *_ = pruned("shared")
    export(tmp_path / "net", made)
    assert read_json(tmp_path / "net" / "config.json")["aliases"] == {"fc2.weight": "fc1.weight"}
    loaded = load(tmp_path / "net", model=full)
    assert loaded.fc1.weight is loaded.fc2.weight


def test_a_network_with_integer_and_scalar_inputs_and_odd_module_names(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.heads = nn.ModuleDict({"3x3-a b": nn.Linear(4, 3), "none": nn.Identity()})
            self.register_buffer("scale", torch.full((4, 4), 2.0).t()[:1], persistent=False)

        def forward(self, index, image):
            with torch.no_grad():
                shift = image.mean((1, 2, 3))[:, None]
            return (self.heads["3x3-a b"](self.table(index) * self.scale + shift), None), [index + 1]

    torch.manual_seed(0)
    full = Odd()
    example = (torch.zeros(2, dtype=torch.long), torch.rand(2, 1, 4, 6))
    nothing = Cut(kept={}, attributes={}, removed=())
    write_model(
        tmp_path / "odd", model=full, full=full, example=example, cut=nothing, record={}, wanted=Wanted(("pt2",))
    )
    program = load(tmp_path / "odd")
    inputs = (torch.tensor([3, 0, 4]), torch.rand(3, 1, 4, 6))
    (one, nought), (two,) = program(*inputs)
    assert nought is None and torch.equal(two, inputs[0] + 1)
    torch.testing.assert_close(one, full(*inputs)[0][0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1), (torch.float64, 1e-4)])
def test_other_precisions_are_kept(dtype, tolerance, tmp_path, caplog):
    full, small, space, candidate, example = pruned("plain")
    made = full, small.to(dtype), space, candidate, tuple(tensor.to(dtype) for tensor in example)
    with caplog.at_level(logging.WARNING, "secateur"):
        figures = export(tmp_path / "net", made, formats=None)
    assert figures["tolerance"] == tolerance
    if "left_out" in figures.get("onnx", {}):  # a precision that the runtime lacks on the CPU
        assert not (tmp_path / "net" / "model.onnx").exists() and "left out" in caplog.text
    assert read_json(tmp_path / "net" / "config.json")["dtype"] == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in load(tmp_path / "net", model=full).parameters()} == {dtype}
    assert load(tmp_path / "net")(example[0].to(dtype)).dtype == dtype


def test_a_folder_that_exists_is_refused_before_anything(exported, tmp_path):
    folder, made = exported
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="remove it or choose another"):
        export(folder, made)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        export(tmp_path / "empty", made)


def test_a_format_that_differs_is_no_export(tmp_path):
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x + self.calls

    with pytest.raises(RuntimeError, match="safetensors export is wrong: at batch 1"):
        nothing = Cut(kept={}, attributes={}, removed=())
        write_model(
            tmp_path / "a", model=Counting(), full=Counting(), example=torch.zeros(2, 3), cut=nothing, record={}
        )
    assert not list(tmp_path.iterdir())


class Fixed(nn.Module):
    """Its forward writes the batch down."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return torch.cat([self.linear(row[None]) for row in x])


@needs_onnx
def test_a_batch_that_cannot_be_free_is_a_fixed_one_and_said(tmp_path, caplog):
    full, nothing = Fixed(), Cut(kept={}, attributes={}, removed=())
    with caplog.at_level(logging.WARNING, "secateur"):
        found = write_model(
            tmp_path / "a",
            model=full,
            full=full,
            example=torch.rand(2, 3),
            cut=nothing,
            record={},
            wanted=Wanted(("pt2", "onnx")),
        )
    assert (
        found["pt2"]["fixed_batch"] == 1 == found["onnx"]["fixed_batch"] and "fixed_batch" not in found["safetensors"]
    )
    assert "a batch of 1 only" in caplog.text and "a batch of 1 only" in (tmp_path / "a" / "README.md").read_text()
    inputs = torch.rand(1, 3)
    torch.testing.assert_close(load(tmp_path / "a")(inputs), full(inputs))


class Untraceable(nn.Module):
    """No exporter can follow it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x) if float(x.sum()) > -1e9 else x


def test_a_format_that_cannot_be_is_left_out_with_the_reason_and_the_weights_are_written(tmp_path):
    full, nothing = Untraceable(), Cut(kept={}, attributes={}, removed=())
    parts = {"model": full, "full": full, "example": torch.rand(2, 3), "cut": nothing, "record": {}}
    with pytest.raises(ValueError, match="cannot be written as pt2 .*leave pt2 out of the formats"):
        write_model(tmp_path / "a", **parts, wanted=Wanted(("pt2",)))
    assert not list(tmp_path.iterdir())
    found = write_model(tmp_path / "a", **parts)
    assert "cannot be exported" in found["pt2"]["left_out"] and max(found["safetensors"].values()) < 1e-6
    assert not list((tmp_path / "a").glob("*.pt2"))
    inputs = torch.rand(5, 3)
    assert torch.equal(load(tmp_path / "a", model=Untraceable())(inputs), full(inputs))
    with pytest.raises(FileNotFoundError, match="holds no program .*give the full network"):
        load(tmp_path / "a")
    write_model(tmp_path / "b", **parts, wanted=Wanted(()))
    with pytest.raises(FileNotFoundError, match="it was not asked for"):
        load(tmp_path / "b")


@dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor
    note: str | None = None


class Bag(OrderedDict):
    """As many libraries return: a dict whose entries are attributes too."""

    __getattr__ = OrderedDict.__getitem__


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@needs_onnx
@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda one, two: Answer(one, two), ["logits", "features"]),
        (lambda one, two: Bag(logits=one, more=Answer(two, two)), ["logits", "more.logits", "more.features"]),
        (lambda one, two: {"a": one, "b": [two, None]}, ["a", "b.0"]),
        (lambda one, two: Pair(one, two), ["output_0", "output_1"]),
        (lambda one, two: two, ["output"]),
        (
            lambda one, two: {"x": one, "relu": two, "linear": {"weight": one}, "linear.weight": two},
            ["output_x", "relu", "linear.weight", "output_linear.weight"],
        ),
    ],
    ids=["dataclass", "dict_of_dataclass", "dict", "namedtuple", "tensor", "named_as_others"],
)
def test_outputs_of_every_kind_are_exported_under_their_names(wrap, names, tmp_path):
    import onnx

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            features = self.linear(x)
            return wrap(features.relu(), features)

    full, nothing = Net(), Cut(kept={}, attributes={}, removed=())
    parts = {"model": full, "full": full, "example": torch.rand(2, 3), "cut": nothing}
    record = {"preprocessing": {"mean": [0.5]}, "key": "ab"}
    write_model(tmp_path / "a", **parts, record=record, wanted=Wanted(("pt2", "onnx")))
    inputs = torch.rand(5, 3)
    found = pytree.tree_leaves(load(tmp_path / "a")(inputs))
    expected = pytree.tree_leaves(plain(full(inputs)))
    assert [leaf for leaf in expected if not isinstance(leaf, torch.Tensor)] == [
        leaf for leaf in found if not isinstance(leaf, torch.Tensor)
    ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    proto = onnx.load(tmp_path / "a" / "model.onnx")
    assert [value.name for value in proto.graph.output] == names and [v.name for v in proto.graph.input] == ["x"]
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said["secateur.key"] == "ab" and json.loads(said["secateur.preprocessing"]) == {"mean": [0.5]}
    assert "forward" not in vars(full)


def test_a_loaded_program_says_that_it_cannot_be_trained(exported):
    program = load(exported[0])
    assert program.eval() is program
    with pytest.raises(RuntimeError, match=r"load it with sc\.load\(folder, model=full_network\)"):
        program.train()


def test_onnx_without_its_extra(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'secateur\[onnx\]'"):
        export(tmp_path / "net", exported[1], formats=("pt2", "onnx"))
    assert "onnx" not in export(tmp_path / "net", exported[1], formats=None)


FILL = """
import resource, sys
import torch
import secateur as sc
from secateur.spaces import Cut
from secateur.studies.exports.model import write_model
model = torch.nn.Linear(64, 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    nothing = Cut(kept={}, attributes={}, removed=())
    write_model(sys.argv[1], model=model, full=model, example=torch.rand(2, 64), cut=nothing, record={})
except OSError as error:
    print(error.errno, error)
"""


def test_a_disk_that_fills_leaves_nothing(tmp_path):
    (tmp_path / "other").write_text("stays")
    found = subprocess.run([sys.executable, "-c", FILL, tmp_path / "net"], capture_output=True, text=True, check=True)
    assert str(errno.EFBIG) in found.stdout and "the disk is full" in found.stdout and "nothing" in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_small_file_system_that_fills_leaves_nothing(tmp_path, exported):
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(OSError, match="the disk is full") as caught:
            export(tmp_path / "net", exported[1])
        assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_what_a_killed_export_left_is_swept(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".net.partial-{int(dead.stdout)}" / "inner").mkdir(parents=True)
    (tmp_path / ".net.partial-1").mkdir()  # process 1 runs
    with new_folder(tmp_path / "net") as aside:
        (aside / "file").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".net.partial-1", "net"]


def test_atomic_writing_keeps_the_old_file_where_it_fails(tmp_path):
    write_atomic(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "file", 3)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_json_is_compact_and_says_the_same():
    data = {"a": [1, -2.5e-07, 3], "b": ["[\n1,\n2\n]", []], "c": [[1, 2], [3]], "d": None}
    assert json.loads(to_json(data)) == data and "[1, -2.5e-07, 3]" in to_json(data)


def edit(folder, **changes):
    """Change entries of config.json, and drop its digests, as exports of 0.2 and before have none."""
    config = read_json(folder / "config.json") | {"files": "gone", "digest": "gone"}
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_loading_what_is_not_there(tmp_path, spoiled):
    folder, full = spoiled
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="holds no config.json"):
        load(tmp_path)
    (folder / "model.pt2").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.pt2"):
        load(folder)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load(folder, model=full)


def test_loading_truncated_files(spoiled):
    folder, full = spoiled
    for name in ("model.safetensors", "model.pt2"):
        truncate(folder / name)
    for given in (None, full):
        with pytest.raises(FormatError, match=r"model\.(pt2|safetensors) is truncated, was changed"):
            load(folder, model=given)
    edit(folder)
    with pytest.raises(FormatError, match=r"model\.safetensors is truncated"):
        load(folder, model=full)
    with pytest.raises(FormatError, match=r"model\.pt2: truncated"):
        load(folder)
    truncate(folder / "config.json")
    with pytest.raises(FormatError, match="truncated or edited"):
        load(folder, model=full)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "model.onnx", "config.json"])
def test_one_changed_byte_is_refused(spoiled, name):
    folder, full = spoiled
    if not (folder / name).exists():
        pytest.skip("not written here")
    data = (folder / name).read_bytes()
    at = data.index(b'"conv1') + 5 if name == "config.json" else len(data) // 2
    (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for model in (None, full):
        with pytest.raises(FormatError):
            load(folder, model=model)


def test_files_of_two_exports_do_not_mix_and_a_card_may_be_added_to(spoiled, tmp_path):
    folder, full = spoiled
    with (folder / "README.md").open("a") as card:
        card.write("More for people.\n")
    load(folder)
    (folder / "model.pt2").unlink()  # a copy of what one needs is enough
    load(folder, model=full)
    config = read_json(folder / "config.json")
    for changes in ({"files": {}}, {"attributes": {"conv1": {"stride": [2, 2]}}}):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(FormatError, match="was edited, or is of another export"):
            load(folder, model=full)


def test_an_export_without_digests_is_loaded_and_that_is_said(spoiled, caplog):
    folder, full = spoiled
    load(folder, model=full)
    assert "digests" not in caplog.text
    edit(folder)
    load(folder, model=full)
    assert "kept no digests" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not of an exported network"),
        ({"format_version": 2}, "upgrade secateur"),
        ({"format_version": "1"}, "upgrade secateur"),
        ({"attributes": "gone"}, "'attributes' is missing or malformed"),
        ({"removed": "conv1"}, "'removed' is missing or malformed"),
        ({"shapes": {"conv1.weight": "big"}}, "'shapes' is missing or malformed"),
        ({"shapes": {"conv1.weight": [4, 3, 3, 3]}}, "not of one export"),
        ({"aliases": {"conv1.weight": "nothing"}}, "not of one export"),
        ({"aliases": []}, "'aliases' is missing or malformed"),
        ({"attributes": {"conv1": {"nonsense": 3}}}, "does not fit Plain"),
        ({"attributes": {"conv1": {"forward": 3}}}, "conv1.forward is a method, which counts nothing"),
        ({"attributes": {"": {"_modules": 3}}}, "_modules is a dict, which counts nothing"),
        ({"attributes": {"conv1": {"__class__": 3}}}, "__class__ is a type, which counts nothing"),
    ],
)
def test_loading_an_edited_config(spoiled, changes, message):
    folder, full = spoiled
    edit(folder, **changes)
    with pytest.raises(FormatError, match=message):
        load(folder, model=full)


class Listed(nn.Module):
    """Numbers of channels in a list, which the forward reads."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.sizes = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), [8, 4]

    def forward(self, x):
        x = self.first(x)
        return self.last(x.flatten(1).unflatten(1, (self.sizes[0], *x.shape[2:])).relu())


def test_numbers_of_channels_in_a_list_are_loaded(tmp_path):
    torch.manual_seed(0)
    full, x = Listed().eval(), torch.rand(2, 3, 6, 6)
    space = Space.trace(full, x, divisor=1)
    candidate = space.uniform(0.5)
    small = build(full, space, candidate)
    assert small.sizes == [4, 4]
    sc.save(tmp_path / "export", small, model=full, space=space, candidate=candidate)
    loaded = load(tmp_path / "export", model=Listed())
    assert loaded.sizes == [4, 4] and torch.equal(loaded(x), small.eval()(x))


class Growing(nn.Module):
    """Its forward makes a buffer anew for inputs of another size."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)
        self.register_buffer("places", torch.zeros(1, 1))

    def forward(self, x):
        if self.places.shape[1] != x.shape[1]:
            self.places = torch.arange(x.shape[1]).to(x)[None]
        return self.two(self.one(x).relu() * self.places[..., None])


def test_a_buffer_that_the_forward_makes_larger_is_no_other_network(tmp_path):
    model, x = Growing().eval(), torch.rand(2, 5, 3)
    model(x)
    space = Space.trace(model, x, divisor=1)
    small = build(model, space, space.smallest)
    sc.save(tmp_path / "net", small, model=model, space=space, candidate=space.smallest, formats=["safetensors"])
    torch.testing.assert_close(load(tmp_path / "net", model=Growing())(x), small(x))


def test_loading_into_another_model_says_what_differs(exported):
    folder, _ = exported
    other, _ = network("plain")
    other.conv1 = nn.Conv2d(3, 16, 3)
    with pytest.raises(ValueError, match=r"conv1.weight is \[16, 3, 3, 3\], was \[8, 3, 3, 3\].*as it was made"):
        load(folder, model=other)
    with pytest.raises(ValueError, match="is not the full network"):
        load(folder, model=nn.Linear(1, 1))


def test_a_network_that_no_study_made_is_saved_and_loaded(tmp_path):
    full, small, space, candidate, example = pruned("residual", depth=0.5)
    scores = {name: 1 / (1 + score) for name, score in space.default_scores.items()}
    small = build(full, space, candidate, scores)
    with torch.no_grad():
        next(small.parameters()).add_(1)  # trained
    parts = {"model": full, "space": space, "candidate": candidate, "scores": scores}
    found = sc.save(tmp_path / "net", small, **parts, formats=("pt2",), notes={"errors": {"test_error": 0.1}})
    assert max(found["safetensors"].values()) < 1e-6 and max(found["pt2"].values()) < 1e-4
    config = read_json(tmp_path / "net" / "config.json")
    assert config["key"] == candidate.key and config["errors"] == {"test_error": 0.1}
    assert config["costs"]["macs"] == space.costs([candidate]).macs[0] < config["full_costs"]["macs"]
    for loaded in (sc.load(tmp_path / "net"), sc.load(tmp_path / "net", full)):
        for one, other in zip(outputs(loaded, example), outputs(small, example), strict=True):
            torch.testing.assert_close(one, other)
    with pytest.raises(FileExistsError, match="remove it or choose another"):
        sc.save(tmp_path / "net", small, **parts)


def test_a_network_of_another_candidate_is_not_saved(tmp_path):
    full, small, space, candidate, _ = pruned("plain")
    with pytest.raises(ValueError, match=r"the network is not that of the candidate: .* is \[\d.*built with"):
        sc.save(tmp_path / "net", small, model=full, space=space, candidate=space.full)
    with pytest.raises(TypeError, match=r"network is a dict; expected the torch.nn.Module that build made"):
        sc.save(tmp_path / "net", dict(small.state_dict()), model=full, space=space, candidate=candidate)
    assert not list(tmp_path.iterdir())
