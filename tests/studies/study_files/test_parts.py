"""What a study file names is the user's code: whatever it raises is one sentence that says where."""

import json
import logging

import pytest
import torch
from study_file import write

import secateur as sc
from secateur import Budget
from secateur.__main__ import main
from secateur.studies import launch
from secateur.studies.study_files import file as config
from secateur.studies.study_files.parts import costs_of, make_task

BROKEN = {
    "def make(:": r"can't be imported, it raised SyntaxError: .*\(PLACE, line 1\)",
    "x = 1 / 0": r"can't be imported, it raised ZeroDivisionError: division by zero \(PLACE, line 1\)",
    "import no_such_package": r"needs no_such_package, which is not installed",
    "import sys\nsys.exit(3)": r"can't be imported, it raised SystemExit: 3 \(PLACE, line 2\)",
    "def make():\n    return {}['weights']": r"raised KeyError: 'weights' \(PLACE, line 2\)",
    "def make():\n    raise SystemExit": r"raised SystemExit \(PLACE, line 2\)",
    "import torch\ndef make():\n    torch.zeros(2) @ torch.zeros(3)": r"raised RuntimeError: .*\(PLACE, line 3\)",
    "make = 3": r"is a int; expected something to call",
}


TRAINED = (
    "import torch\nfrom torch import nn\n\n\nclass Halves(nn.Module):\n"
    '    """Which half is brighter, for certain."""\n\n'
    "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv2d(1, 4, 1)\n"
    "        self.conv.weight.data.fill_(1)\n        self.conv.bias.data.zero_()\n\n"
    "    def forward(self, x):\n        x = self.conv(x).mean((1, 2))\n        half = x.shape[-1] // 2\n"
    "        return torch.stack([x[:, half:].mean(1), x[:, :half].mean(1)], 1)\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("parts"), "cli_parts")


def study(folder, tmp_path, model):
    text = (
        (folder / "study.toml").read_text().replace('factory = "cli_parts:Tiny"\ntrain = true', f'factory = "{model}"')
    )
    (folder / f"{tmp_path.name}.toml").write_text(text)
    return folder / f"{tmp_path.name}.toml"


@pytest.mark.parametrize("code", BROKEN, ids=range(len(BROKEN)))
def test_what_a_factory_raises_is_said_with_its_place(folder, tmp_path, capsys, code):
    name = f"broken{list(BROKEN).index(code)}"
    (folder / f"{name}.py").write_text(code)
    path = study(folder, tmp_path, f"{name}:make")
    with pytest.raises(
        (ValueError, TypeError), match=f"^model factory {name}:make.*{BROKEN[code].replace('PLACE', f'{name}.py')}"
    ):
        launch.trace(config.read(path))
    assert main(["search", str(path), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("x[:, 5]", r"the model does not take the data of shape \(16, 1, 8, 8\): IndexError: index 5 is out of bounds"),
        ("{}[x.ndim]", r"the model does not take the data of shape \(16, 1, 8, 8\): KeyError: 4"),
        ("None.shape", "AttributeError: 'NoneType' object has no attribute 'shape'"),
    ],
)
def test_a_model_that_does_not_take_the_data(folder, tmp_path, forward, said):
    name = f"taking{tmp_path.name.rstrip('_')[-1]}"
    (folder / f"{name}.py").write_text(
        "from cli_parts import Tiny\n\n\nclass Odd(Tiny):\n"
        f"    def forward(self, x):\n        return super().forward(x) + {forward}\n"
    )
    with pytest.raises(ValueError, match=said):
        launch.trace(config.read(study(folder, tmp_path, f"{name}:Odd")))


def test_a_network_that_only_guesses_is_warned_of(folder, tmp_path, caplog):
    (folder / "constant.py").write_text(
        "from cli_parts import Tiny\n\n\ndef constant():\n    net = Tiny()\n    net.head.weight.data.zero_()\n"
        "    return net\n\n\ndef endless():\n    net = Tiny()\n    net.head.bias.data.fill_(float('nan'))\n"
        "    return net\n"
    )
    file = config.read(study(folder, tmp_path, "constant:constant")).changed(trials=1)
    with caplog.at_level(logging.INFO, logger="secateur"):
        launch.search(file, tmp_path / "constant")  # twenty examples are too few to be sure
    (warned,) = [one for one in caplog.records if one.getMessage().startswith("full network")]
    assert warned.levelno == logging.WARNING
    assert (
        "validation error 50.00% +- 11.18 on 20 examples, little better than a guess; its batch" in warned.getMessage()
    )
    file = config.read(study(folder, tmp_path, "constant:endless")).changed(trials=1)
    with pytest.raises(ValueError, match="the full network is of no use: the outputs on the validation split are not"):
        launch.search(file, tmp_path / "endless")
    assert not (tmp_path / "endless").exists()


def test_a_network_that_was_trained_is_only_told(folder, tmp_path, caplog):
    (folder / "trained.py").write_text(TRAINED)
    file = config.read(study(folder, tmp_path, "trained:Halves")).changed(trials=1)
    with caplog.at_level(logging.INFO, logger="secateur"):
        launch.search(file, tmp_path / "run")
    (told,) = [one for one in caplog.records if one.getMessage().startswith("full network")]
    assert told.levelno == logging.INFO
    assert told.getMessage() == "full network: validation error 0.00% +- 3.41 on 20 examples"


def test_a_network_is_held_against_what_is_expected_of_it(folder, tmp_path):
    (folder / "trained.py").write_text(TRAINED)
    text = study(folder, tmp_path, "trained:Halves").read_text()
    file = folder / "expecting.toml"
    file.write_text(text.replace("[model]", "[model]\nexpect_error = 0.4", 1))
    with pytest.raises(ValueError, match=r"full network: validation error 0.00% .* and 40.00% was expected"):
        launch.search(config.read(file), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_rules_of_a_file_are_those_of_python(folder, tmp_path):
    path = study(folder, tmp_path, "cli_parts:Tiny")
    path.write_text(path.read_text() + '[space.rules]\n"h*d" = "ignore"\nConv2d = { least = 0.75, divisor = 2 }\n')
    file = config.read(path)
    assert file.space.rules == {"h*d": "ignore", "Conv2d": {"least": 0.75, "divisor": 2}}
    copy = tmp_path / "copy.toml"
    copy.write_text(file.to_toml())
    assert config.read(copy) == file
    space = launch.trace(file)
    assert space.ruled.keys() == {"h*d", "Conv2d"}
    assert space.groups and all(min(group.widths) >= 0.75 * group.width for group in space.groups)


@pytest.mark.parametrize(
    ("dimensions", "rule"),
    [
        ([], {"least": 1.0, "depth": False}),
        (["width"], {"depth": False}),
        (["depth"], {"least": 1.0}),
        (["width", "depth"], None),
    ],
)
def test_a_file_of_0_1_says_its_dimensions(folder, tmp_path, dimensions, rule):
    path = study(folder, tmp_path, "cli_parts:Tiny")
    path.write_text(path.read_text().replace("[space]\n", f"[space]\ndimensions = {dimensions}\n"))
    assert config.read(path).space.rules == ({"*": rule} if rule else {})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('prior = "a\\u0000b"', r"\[study\] prior: given 'a\\x00b'; no name, path or word holds a zero byte"),
        (f"prior = {'[' * 100}{']' * 100}", "no valid TOML: tables and lists are nested more than 50 deep"),
        (f"prior = {'[' * 10**5}{']' * 10**5}", "no valid TOML: maximum recursion depth"),
        (f"prior{'.a' * 5_000} = 1", "no valid TOML: "),
        (f"seed = {'9' * 5000}", r"\.toml: Exceeds the limit"),
    ],
)
def test_values_that_no_key_takes(folder, tmp_path, line, said):
    path = study(folder, tmp_path, "cli_parts:Tiny")
    path.write_text(path.read_text().replace("[study]\n", f"[study]\n{line}\n"))
    with pytest.raises(ValueError, match=said):
        config.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"trials": 2**63},
        {"patience": 10**400},
        {"keep_gb": float("inf")},
        {"runner": {"kind": "ray", "retries": 2**64}},
    ],
)
def test_no_change_by_a_command_makes_a_file_that_cannot_be_read(folder, tmp_path, change):
    file = config.read(study(folder, tmp_path, "cli_parts:Tiny"))
    with pytest.raises(ValueError, match="expected (64 bits|a finite number)"):
        file.changed(**change)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (2, "all 2 trials failed, so nothing was found; the last: "),
        (8, "trials so far failed alike, so the search stops: "),
    ],
)
def test_a_search_of_failed_trials_alone_ends_with_one(folder, tmp_path, capsys, trials, said):
    (folder / "odd_task.py").write_text(
        "from secateur.studies.study_files.data import Data\n\n\nclass Words:\n    count = 1\n\n"
        "    def update(self, outputs, targets):\n        pass\n\n"
        "    def compute(self):\n        return 'good'\n\n\n"
        "def task():\n    inner = Data(reader='npz', path=PATH, validation=20, test=20, batch=16).task()\n"
        "    inner.error = Words\n    return inner\n".replace("PATH", repr(str(folder / "images.npz")))
    )
    path = study(folder, tmp_path, "cli_parts:Tiny")
    text = path.read_text()
    start, end = text.index("[data]"), text.index("[space]")
    path.write_text(f'{text[:start]}[data]\nfactory = "odd_task:task"\n\n{text[end:]}')
    assert main(["search", str(path), "--out", str(tmp_path / "run"), "--trials", str(trials)]) == 1
    assert f"{said}TypeError: the task's error, Words.compute(), gave" in capsys.readouterr().err


def test_a_file_names_loss_metric_and_transform(folder, tmp_path):
    (folder / "own_judging.py").write_text(
        "import torch\n\n\ndef twice(outputs, targets):\n"
        "    return 2 * torch.nn.functional.cross_entropy(outputs, targets)\n\n\n"
        "class Right:\n    higher_is_better = True\n    n = right = 0\n\n"
        "    def update(self, outputs, targets):\n"
        "        self.n, self.right = self.n + len(targets), self.right + int((outputs.argmax(1) == targets).sum())\n\n"
        "    def compute(self):\n        return self.right / self.n\n\n\n"
        "class Half(torch.nn.Module):\n    def forward(self, image):\n        return image.float() / 510\n"
    )
    text = (folder / "study.toml").read_text()
    own = 'loss = "own_judging:twice"\nmetric = "own_judging:Right"\ntransform = "own_judging:Half"\n'
    file = folder / "judging.toml"
    file.write_text(text.replace("[data]\n", f'[data]\n{own}class_weights = "balanced"\n'))
    with pytest.raises(ValueError, match="class_weights is of the usual loss, and a loss was given"):
        make_task(config.read(file))
    file.write_text(text.replace("[data]\n", f"[data]\n{own}"))
    usual, given = (make_task(config.read(one)) for one in (folder / "study.toml", file))
    outputs, targets = torch.rand(4, given.classes), torch.tensor([0, 1, 1, 0])
    assert torch.equal(given.loss(outputs, targets), 2 * usual.loss(outputs, targets))
    assert type(given.error().metric).__name__ == "Right"
    shown, halved = (next(iter(one.loader("validation", None, None))) for one in (usual, given))
    one = usual.prepare(shown, torch.device("cpu"))[0]
    assert torch.allclose(one / 2, given.prepare(halved, torch.device("cpu"))[0], atol=1e-6)
    for bad, said in (("focal", "expected 'package.module:name'"), ("own_judging:nothing", "has no 'nothing'")):
        file.write_text(text.replace("[data]\n", f'[data]\nloss = "{bad}"\n'))
        with pytest.raises(ValueError, match=said):
            make_task(config.read(file))


def test_a_file_names_an_optimizer_and_a_schedule(folder, tmp_path, capsys):
    (folder / "own_training.py").write_text(
        "import torch\n\n\ndef cycle(optimizer, steps):\n"
        "    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)\n"
    )
    text = (folder / "study.toml").read_text()
    own = 'optimizer = "torch.optim:RMSprop"\nschedule = "own_training:cycle"\nema = 0.9\n'
    file = folder / "training.toml"
    file.write_text(text.replace("[training]\n", f"[training]\n{own}"))
    out = tmp_path / "out"
    assert main(["search", str(file), "--out", str(out), "--trials", "1"]) == 0
    kept = json.loads((out / "study.json").read_text())["settings"]["training"]
    assert kept["schedule"] == "own_training.cycle" and kept["optimizer"].endswith("RMSprop")
    assert main(["resume", str(out), "--trials", "2"]) == 0
    model = sc.build  # any callable: the settings are looked at first
    task = make_task(config.read(file))
    with pytest.raises(ValueError, match=r"its optimizer is torch.*RMSprop; schedule is .*: give it again"):
        sc.Study.open(out, model=model, task=task)
    with pytest.raises(ValueError, match=r"differs from the study.s: optimizer=.sgd. \(it was .torch.*RMSprop"):
        sc.Study.open(out, model=model, task=task, training=sc.Training())


# --- costs of the user's own ------------------------------------------------------------------------------------------

OWN_COSTS = """
def kb(space, candidate):
    return space.costs([candidate]).param_bytes[0] / 1000


def scaled(factor):
    return lambda network, example: factor * sum(p.numel() for p in network.parameters())
"""


def with_costs(folder, tmp_path, costs, study="", budget=""):
    (folder / "costs_of_ones_own.py").write_text(OWN_COSTS)
    text = (folder / "study.toml").read_text().replace("[study]", f"{costs}\n[study]\n{study}")
    (folder / f"{tmp_path.name}.toml").write_text(text.replace("[budget]", f"[budget]\n{budget}"))
    return folder / f"{tmp_path.name}.toml"


def test_costs_of_ones_own_in_a_study_file(folder, tmp_path):
    costs = (
        '[costs]\nkb = { measure = "costs_of_ones_own:kb", of = "candidate" }\n'
        'double = { measure = "costs_of_ones_own:scaled", arguments = { factor = 2 } }\n'
        'size = { measure = "file_bytes", arguments = { kind = "safetensors" } }\n'
    )
    path = with_costs(folder, tmp_path, costs, 'objectives = ["error", "double"]\nfidelity = "zero-shot"', "kb = 2.0")
    study = launch.search(config.read(path, ["study.trials=4"]), tmp_path / "run")
    trials = study.trials()
    assert trials.double.tolist() == (2 * trials.params).tolist() and (trials["size"] > 4 * trials.params).all()
    assert trials.kb.to_numpy() == pytest.approx(0.004 * trials.params.to_numpy())
    assert study.limits()["kb"] == 2 and (study.front().kb <= 2).all()
    assert config.read(tmp_path / "run").costs == config.read(path).costs
    again = launch.resume(tmp_path / "run", budget=Budget.parse(["kb=1.5", "double=50%"]), trials=5)
    assert again.limits() == pytest.approx({"kb": 1.5, "double": float(study.space.full_costs["params"])})
    assert config.read(tmp_path / "run").budget == again.budget
    (folder / f"{tmp_path.name}.toml").unlink()
    edited = (tmp_path / "run" / "study.toml").read_text().replace("factor = 2", "factor = 3")
    (tmp_path / "run" / "study.toml").write_text(edited)
    with pytest.raises(ValueError, match=r"was edited.*\[costs\] double = "):
        launch.open_study(tmp_path / "run")


def test_a_table_of_a_device_lies_beside_the_study_file(folder, tmp_path):
    (folder / "phone.csv").write_text("operator,size,cost\nadd,10,1\n")
    costs = '[costs.ms]\nmeasure = "table"\narguments = { path = "phone.csv" }\n'
    (cost,) = costs_of(config.read(with_costs(folder, tmp_path, costs)))
    assert cost(lambda x: x + x, (torch.ones(20),)) == 2


@pytest.mark.parametrize(
    ("costs", "study", "budget", "said"),
    [
        (
            'a = "costs_of_ones_own:nothing"',
            "",
            "",
            "cost a factory costs_of_ones_own:nothing: costs_of_ones_own has no 'nothing'",
        ),
        ('a = "file_byte"', "", "", r"\[costs\] a.measure: .*did you mean 'file_bytes'"),
        ('macs = "costs_of_ones_own:kb"', "", "", "cost 'macs': Secateur has something of this name already"),
        ('a = { mesure = "costs_of_ones_own:kb" }', "", "", r"\[costs\] a: the key 'measure' is missing; give one"),
        ('a = { measure = "file_bytes", arguments = { knd = 3 } }', "", "", "does not take the arguments"),
        (
            'a = "costs_of_ones_own:kb"',
            "",
            "b = 3",
            r"\[budget\]: unknown key 'b'; expected one of macs, .*reserve$",
        ),
        ('a = "costs_of_ones_own:kb"', "", "a = -1", "budget a=-1: expected a positive, finite number"),
        (
            'a = "costs_of_ones_own:kb"',
            'objectives = ["error", "b"]',
            "",
            "objectives=.*expected 'error' and different costs",
        ),
        ('a = "costs_of_ones_own:scaled"', "", "", "cost 'a' raised TypeError: .*2 were given"),
    ],
    ids=range(9),
)
def test_costs_that_are_none(folder, tmp_path, costs, study, budget, said):
    path = with_costs(folder, tmp_path, f"[costs]\n{costs}\n", study, budget)
    with pytest.raises(ValueError, match=said):
        launch.search(config.read(path), tmp_path / "run")
    assert not list(tmp_path.iterdir())
