import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.studies.study_files.checkpoints import load_checkpoint, read_checkpoint


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.pt", lambda state: state),
        ("a.pth", lambda state: {"state_dict": state, "epoch": 3, "best": 0.5, "note": "x"}),
        ("a.pt", lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}}),
        ("a.pt", lambda state: {f"module.{key}": value for key, value in state.items()}),
        ("a.pt", lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}}),
        ("a.pt", lambda state: {key: value for key, value in state.items() if "num_batches" not in key}),
    ],
)
def test_plain_state_dicts_load(tmp_path, name, wrap):
    torch.save(wrap(make(1).state_dict()), tmp_path / name)
    model = make(2)
    load_checkpoint(model, tmp_path / name)
    assert same(model, make(1))


def test_safetensors_and_the_old_file_format_load(tmp_path):
    save_file(make(1).state_dict(), tmp_path / "a.safetensors")
    torch.save(make(1).state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pt"):
        model = make(2)
        load_checkpoint(model, tmp_path / name)
        assert same(model, make(1))


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["a.pt", "a.pth"])
@pytest.mark.parametrize(
    "write",
    [
        lambda value, path: torch.save(value, path),
        lambda value, path: torch.save({"state_dict": {"weight": value}}, path),
        lambda value, path: path.write_bytes(pickle.dumps(value)),
    ],
)
def test_pickled_objects_are_refused_and_run_nothing(tmp_path, name, write):
    write(Touch(tmp_path / "touched"), tmp_path / name)
    with pytest.raises(ValueError, match="is not unpickled; save it with"):
        read_checkpoint(tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(make(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"not unpickled; save it with torch.save\(model.state_dict\(\)"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("value", [[torch.ones(1)], {}, {"epoch": 3}, {1: torch.ones(1)}, torch.ones(2), "text"])
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="plain state dict"):
        read_checkpoint(tmp_path / "a.pt")


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="expected a file ending in"):
        read_checkpoint(tmp_path / "a.npz")
    torch.save(make().state_dict(), tmp_path / "a.pt")
    torch.save(make().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(make().state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "old.pt", "a.safetensors"):
        data = (tmp_path / name).read_bytes()
        for keep in (len(data) - 7, len(data) // 2, 10, 0):
            (tmp_path / name).write_bytes(data[:keep])
            with pytest.raises(ValueError, match="truncated"):
                read_checkpoint(tmp_path / name)


def test_what_does_not_fit_is_listed_and_nothing_is_copied(tmp_path):
    state = make(1).state_dict()
    state["0.weight"] = torch.zeros(2, 1, 5, 5)
    state["head.weight"] = state.pop("1.bias")
    torch.save(state, tmp_path / "a.pt")
    model = make(2)
    with pytest.raises(ValueError) as caught:
        load_checkpoint(model, tmp_path / "a.pt")
    assert "missing: 1.bias; unexpected: head.weight; of another shape: 0.weight is [2, 1, 5, 5]" in str(caught.value)
    assert same(model, make(2))
