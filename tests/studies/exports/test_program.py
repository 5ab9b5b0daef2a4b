import contextlib
import copy
import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from secateur.studies.disk.files import FormatError
from secateur.studies.exports.operators import of_libraries
from secateur.studies.exports.program import check, read_program

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.offset = torch.ones(4)  # a constant of the program

    def forward(self, image):
        return self.fc((torch.relu(self.conv(image)) * torch.tensor(2.0)).mean((2, 3)) + self.offset)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def members(network):
    """The members of a good archive, by name."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.rand(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    reader = PT2ArchiveReader(buffer)
    return {
        name: reader.read_bytes(name) for name in reader.get_file_names() if not name.startswith((".data/", "byte"))
    }


class Touch:
    """Unpickles to a new file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def archive(path, members):
    with open(path, "wb") as file, PT2ArchiveWriter(file) as writer:
        for name, data in members.items():
            writer.write_bytes(name, data)
    return path


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edited(members, name, change):
    data = json.loads(members[name])
    change(data)
    return {**members, name: json.dumps(data).encode()}


def test_a_plain_program_is_read(tmp_path, members, network):
    program = read_program(archive(tmp_path / "a.pt2", members))
    for batch in (1, 2, 7):
        image = torch.rand(batch, 3, 6, 6)
        torch.testing.assert_close(program(image), network(image))


def test_the_danger_is_real(tmp_path, members):
    bad = {**members, SAMPLES: pickled(((Touch(tmp_path / "touched"),), {}))}
    with contextlib.suppress(Exception):  # it fails only after it has run the pickle
        torch.export.load(archive(tmp_path / "a.pt2", bad))
    assert (tmp_path / "touched").exists()


def crafted(members, touch):
    """Archives that would run code when torch.export.load reads them, or that hide what it would read."""
    evil = f"__import__('os').mkdir('{touch.path}')"
    graph = json.loads(members[MODEL])["graph_module"]["graph"]

    def weight(**changes):
        return lambda data: next(iter(data["config"].values())).update(changes)

    def size(data):
        values = data["graph_module"]["graph"]["tensor_values"]
        value = next(value for value in values.values() if "as_expr" in str(value["sizes"]))
        value["sizes"][0]["as_expr"]["expr_str"] = evil

    def hidden_size(data):
        values = data["graph_module"]["graph"]["tensor_values"]
        values["metadata"] = copy.deepcopy(next(v for v in values.values() if "as_expr" in str(v["sizes"])))
        values["metadata"]["sizes"][0]["as_expr"]["expr_str"] = evil

    def tree(**changes):
        def change(data):
            signature = data["graph_module"]["module_call_graph"][0]["signature"]
            protocol, spec = json.loads(signature["out_spec"])
            signature["out_spec"] = json.dumps([protocol, {**spec, **changes}])

        return change

    def input_names(data):
        signature = data["graph_module"]["module_call_graph"][0]["signature"]
        protocol, spec = json.loads(signature["in_spec"])
        spec["children_spec"][1]["context"] = json.dumps([f"x={evil}"])
        signature["in_spec"] = json.dumps([protocol, spec])

    def operator(target):
        return lambda data: data["graph_module"]["graph"]["nodes"][0].update(target=target)

    def rename(data):
        text = json.dumps(data["graph_module"]).replace('"conv2d"', json.dumps(f"conv2d={evil};conv2d"))
        data["graph_module"] = json.loads(text)

    def parameter(data):
        text = json.dumps(data["graph_module"]).replace('"conv.weight"', json.dumps(f'conv.w"+{evil}+"eight'))
        data["graph_module"] = json.loads(text)

    def argument(kind, value):
        return lambda data: data["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg={kind: value})

    enum = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "x"})
    factory = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
    pickled_weight = {**members, "data/weights/weight_0": pickled(touch)}
    assert graph["nodes"][0]["name"] == "conv2d"
    return {
        "sample inputs": {**members, SAMPLES: pickled(((touch,), {}))},
        "sample inputs, bare pickle": {**members, SAMPLES: pickle.dumps(touch)},
        "weights": edited(pickled_weight, WEIGHTS, weight(use_pickle=True, path_name="weight_0")),
        "weights, odd mark": edited(pickled_weight, WEIGHTS, weight(use_pickle=1)),
        "weights elsewhere": edited(members, WEIGHTS, weight(path_name="../sample_inputs/model.pt")),
        "constants": edited({**members, "data/constants/tensor_0": pickled(touch)}, CONSTANTS, weight(use_pickle=True)),
        "custom object": edited(
            {**members, "data/constants/custom_obj_0": pickled(touch)}, CONSTANTS, weight(path_name="custom_obj_0")
        ),
        "opaque object": edited(
            {**members, "data/constants/opaque_obj_0": pickle.dumps(touch)}, CONSTANTS, weight(path_name="opaque_obj_0")
        ),
        "opaque object in place": edited(members, CONSTANTS, weight(path_name="opaque_obj_0")),
        "weights of an older layout": {**members, "data/weights/model.pt": pickled({"conv.weight": touch})},
        "constants of an older layout": {**members, "data/constants/model.pt": pickled({"offset": touch})},
        "a second program": {**members, "models/other.json": members[MODEL]},
        "compiled library": {**members, "data/aotinductor/model/x.so": b"\x7fELF"},
        "unknown member": {**members, "extra/note": b"note"},
        "a folder up": {**members, "../../x": b"x"},
        "sizes": edited(members, MODEL, size),
        "sizes under another name": edited(members, MODEL, hidden_size),
        "enum": edited(members, MODEL, tree(type="builtins.dict", context=f"[{enum}]")),
        "default factory": edited(members, MODEL, tree(type="collections.defaultdict", context=factory)),
        "argument names": edited(members, MODEL, input_names),
        "value names": edited(members, MODEL, rename),
        "parameter names": edited(members, MODEL, parameter),
        "operator that opens files": edited(members, MODEL, operator("torch.ops.aten.from_file.default")),
        "operator that prints": edited(members, MODEL, operator("torch.ops.aten._print.default")),
        "operator on texts": edited(members, MODEL, operator("torch.ops.aten.str.default")),
        "operator of a library": edited(members, MODEL, operator("torch.ops.image.write_file.default")),
        "operator without checks": edited(members, MODEL, operator("torch.ops.aten._sparse_coo_tensor_unsafe.default")),
        "operator that is not there": edited(members, MODEL, operator("torch.ops.aten.nothing.default")),
        "python that calls": edited(members, MODEL, operator("_operator.methodcaller")),
        "factorials": edited(members, MODEL, operator("math.factorial")),
        "operator that loads": edited(members, MODEL, operator("torch.ops.load_library")),
        "function of torch": edited(members, MODEL, operator("torch.load")),
        "function of the standard library": edited(members, MODEL, operator("_operator.__class__.x")),
        "higher order": edited(members, MODEL, operator("torch.ops.higher_order.call_torchbind")),
        "custom object in the graph": edited(
            members, MODEL, argument("as_custom_obj", {"name": "x", "class_fqn": "y"})
        ),
        "operator as an argument": edited(members, MODEL, argument("as_operator", "torch.load")),
    }


def test_crafted_archives_are_refused_and_run_nothing(tmp_path, members, subtests):
    touch = Touch(tmp_path / "touched")
    for name, bad in crafted(members, touch).items():
        with subtests.test(name):
            with pytest.raises(FormatError, match=r"a\.pt2: refused"):
                read_program(archive(tmp_path / "a.pt2", bad))
            assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "expression",
    [
        "Integer(9)**9**9**9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Pow(Integer(2), Integer(99999999999))",
        "Pow(" * 20 + "Integer(9)" + ", Integer(4))" * 20,
        "Float('0.5', precision=10000000000)",
        "Float('1e999999999')",
        f"Integer({'9' * 400})",
        "Mul(" + "Integer(2), " * 5000 + "Integer(2))",
        "LShift(Integer(1), Integer(99999999999))",
    ],
)
def test_sizes_that_take_long_are_refused(members, expression):
    def change(data):
        values = data["graph_module"]["graph"]["tensor_values"]
        value = next(value for value in values.values() if "as_expr" in str(value["sizes"]))
        value["sizes"][0]["as_expr"]["expr_str"] = expression

    with pytest.raises(FormatError, match="is no size"):
        check(zipped(edited(members, MODEL, change)))


def test_a_weight_without_its_bytes_is_refused_and_torch_logs_nothing(tmp_path, members, capfd, caplog):
    name = next(name for name, data in members.items() if name.startswith("data/weights/weight_") and data)
    with pytest.raises(FormatError, match="lacks bytes of its tensor"):
        read_program(archive(tmp_path / "a.pt2", {**members, name: b""}))
    broken = edited(members, MODEL, lambda data: data["graph_module"]["graph"].update(inputs=[]))
    with pytest.raises(FormatError, match="cannot be loaded"):
        read_program(archive(tmp_path / "a.pt2", broken))
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_operators_of_libraries_are_called_where_they_are_named(tmp_path):
    with torch.library._scoped_library("secateur_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")

        class Twice(nn.Module):
            def forward(self, x):
                return torch.ops.secateur_test.twice(x) + 1

        program = torch.export.export(Twice(), (torch.rand(2, 3),))
        torch.export.save(program, tmp_path / "a.pt2")
        with pytest.raises(FormatError, match=r"operators=\['secateur_test::twice'\]"):
            read_program(tmp_path / "a.pt2")
        x = torch.rand(2, 3)
        named = of_libraries(program)
        torch.testing.assert_close(read_program(tmp_path / "a.pt2", named)(x), 2 * x + 1)


def test_guards_are_never_run(tmp_path, members):
    guard = f"__import__('os').mkdir('{tmp_path / 'touched'}')"
    path = archive(tmp_path / "a.pt2", edited(members, MODEL, lambda data: data.update(guards_code=[guard])))
    read_program(path)(torch.rand(3, 3, 6, 6))
    assert not (tmp_path / "touched").exists()


def zipped(members, *, compress=zipfile.ZIP_STORED, twice=False, roots=("archive",)):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file:
        for number, (name, data) in enumerate({**members, ".data/version": b"6"}.items()):
            file.writestr(f"{roots[number % len(roots)]}/{name}", data)
        if twice:
            file.writestr(f"{roots[0]}/{SAMPLES.upper()}", b"")
    return buffer.getvalue()


def test_archives_that_readers_could_understand_differently_are_refused(members):
    check(zipped(members))
    for data, message in {
        zipped(members, compress=zipfile.ZIP_DEFLATED): "compressed",
        zipped(members, twice=True): "none of a plain network",
        zipped(members, roots=("a", "b")): "several roots",
        b"#!/bin/sh\n" + zipped(members): "in front",
        zipped({name: data for name, data in members.items() if name != WEIGHTS}): "is missing",
        zipped(members)[:-30]: "truncated",
        b"": "truncated",
    }.items():
        with pytest.raises(FormatError, match=message):
            check(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(members):
    buffer = io.BytesIO(zipped(members))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(f"archive/{SAMPLES}", b"")
    with pytest.raises(FormatError, match="a member twice"):
        check(buffer.getvalue())


def test_older_archives_that_torch_unpickles_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as file:
        file.writestr("version", "8.0")
        file.writestr("serialized_state_dict.pt", pickled(Touch(tmp_path / "touched")))
    with pytest.raises(FormatError, match="refused"):
        read_program(tmp_path / "old.pt2")
    assert not (tmp_path / "touched").exists()


def test_control_flow_and_computed_sizes_are_plain(tmp_path):
    class Flow(nn.Module):
        def forward(self, x):
            y = nn.functional.interpolate(x, scale_factor=2.0)
            y = torch.cond(x.sum() > 0, lambda z: z + 1, lambda z: z - 1, (y,))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                z = torch.einsum("nchw,nchw->n", y, y)
            return y.reshape(x.shape[0] * x.shape[1], -1), torch.arange(x.shape[0] * 2 + 1), z

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Flow(), (torch.rand(4, 2, 4, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "flow.pt2")
    loaded = read_program(tmp_path / "flow.pt2")
    x = torch.rand(7, 2, 4, 4)
    for one, other in zip(loaded(x), Flow()(x), strict=True):
        torch.testing.assert_close(one, other)
