"""A method that breaks its contract is refused before training is spent, with file and rule."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acdc.errors import ConfigError
from acdc.methods import registry
from acdc.run.lifecycle import Options, run
from tests.support import Silent, tiny_config

HEAD = """
import numpy, torch
from acdc.methods.contract import SparseMethod
from acdc.methods.settings import MethodSettings
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.selection import magnitude_masks
"""
SOUND = f"""{HEAD}
class Mine(SparseMethod):
    name = "mine"
    label = "Mine"
    source = "Nobody"

    def setup(self, context):
        super().setup(context)
        self.masks = magnitude_masks(self.ranked, self.sparsity, "global")
        apply_masks(self.weights, self.masks)
"""

CLASS = {
    "no label": ('    label = "Mine"\n', ""),
    "a label that is no text": ('"Mine"', "7"),
    "no source": ('    source = "Nobody"\n', ""),
    "products of another name": ('"Nobody"', '"Nobody"; products = ("best",)'),
    "no product": ('"Nobody"', '"Nobody"; products = ()'),
    "a product twice": ('"Nobody"', '"Nobody"; products = ("sparse", "sparse")'),
    "products as a text": ('"Nobody"', '"Nobody"; products = "sparse"'),
    "resumable beside products": ('"Nobody"', '"Nobody"; resumable = frozenset({"dense"})'),
    "settings of another class": ('"Nobody"', '"Nobody"; Settings = dict'),
    "settings that are no class": ('"Nobody"', '"Nobody"; Settings = MethodSettings()'),
    "deviations of another kind": ('"Nobody"', '"Nobody"; deviations = ("none",)'),
    "no hook": ("    def setup", "    def begin"),
    "a syntax error": ("def setup(self", "def setup(self;"),
    "a missing package": ("import numpy", "import numpy, no_such_package"),
    "an error on import": ("class Mine", "1 / 0\nclass Mine"),
    "another name": ('name = "mine"', 'name = "yours"'),
}
MASKS = 'self.masks = magnitude_masks(self.ranked, self.sparsity, "global")'
SETUP = {
    "setup without super": ("super().setup(context)\n", "self.ranked = context.weights\n"),
    "setup that needs super": ("        super().setup(context)\n", ""),
    "float masks": (MASKS, MASKS + "\n        self.masks = {n: m.float() for n, m in "
                    "self.masks.items()}"),
    "integer masks": (MASKS, MASKS + "\n        self.masks = {n: m.to(torch.uint8) for n, m in "
                      "self.masks.items()}"),
    "masks of numpy": (MASKS, MASKS + "\n        self.masks = {n: m.numpy() for n, m in "
                       "self.masks.items()}"),
    "a mask that would broadcast": (MASKS, 'self.masks = {"conv1.weight": torch.ones(3) > 0}'),
    "a transposed mask": (MASKS, 'self.masks = {"fc.weight": self.weights["fc.weight"].T > 0}'),
    "masks of another device": (MASKS, MASKS + '\n        self.masks = {n: m.to("meta") for n, m '
                                "in self.masks.items()}"),
    "an unknown layer": (MASKS, 'self.masks = {"fc": self.weights["fc.weight"] > 0}'),
    "a layer that is not pruned": (MASKS, 'self.masks = {"bn1.weight": torch.ones(16) > 0}'),
}  # fmt: skip
STATE = "\n    def state_dict(self):\n        return super().state_dict() | "
STEP = {
    "an object in the state": STATE + '{"x": object()}',
    "a function in the state": STATE + '{"x": [lambda: 0]}',
    "an array in the state": STATE + '{"x": {"y": numpy.zeros(3)}}',
    "a number of numpy in the state": STATE + '{"x": numpy.float64(1)}',
    "a class in the state": STATE + '{"x": (1, dict)}',
    "a set in the state": STATE + '{"x": {1, 2}}',
    "a product of another name": '\n    def product(self, step):\n        return "best"',
    "a product that is not declared": '\n    def product(self, step):\n        return "dense"',
    "before_step without return": "\n    def before_step(self, step):\n        pass",
    "before_step that returns a number": "\n    def before_step(self, step):\n        return 1",
    "no learning rate": "\n    def learning_rate(self, step, rate):\n        pass",
    "a negative learning rate": "\n    def learning_rate(self, step, rate):\n        return -rate",
    "a learning rate that is no number": '\n    def learning_rate(self, step, rate):\n        '
    'return float("nan")',
    "masks of a first step": "\n    def after_step(self, step):\n        "
    'self.masks = {"fc.weight": torch.ones(3)}',
    "masks of an epoch": '\n    def epoch_start(self, step):\n        self.masks["x"] = '
    "torch.ones(3) > 0",
}  # fmt: skip

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    package = tmp_path / "broken_methods"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "BASELINES", package.name)
    registry.get_method.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
        del sys.modules[name]

    def write(text: str) -> Path:
        (package / "mine.py").write_text(text)
        return package / "mine.py"

    yield write
    registry.get_method.cache_clear()


def changed(old: str, new: str) -> str:
    assert SOUND.count(old) == 1
    return SOUND.replace(old, new)


def refused(write: Write, text: str, tmp_path: Path, epochs: int = 1) -> None:
    path, reporter = write(text), Silent()
    with pytest.raises(ConfigError) as refusal:
        run(tiny_config("mine", epochs=epochs), Options(tmp_path / "runs"), reporter)
    assert str(refusal.value).startswith(f"method=mine: {path}: ")
    assert not reporter.epochs or epochs == 2


def test_a_sound_method(write: Write, tmp_path: Path) -> None:
    write(SOUND)
    result = run(tiny_config("mine", epochs=1), Options(tmp_path), Silent())
    assert result.status == "finished"
    assert math.isclose(result.products["sparse"].last.certificate.achieved, 0.75, rel_tol=1e-3)


@pytest.mark.parametrize("fault", CLASS)
def test_faults_of_a_class(fault: str, write: Write, acdc: Any) -> None:
    path = write(changed(*CLASS[fault]))
    with pytest.raises(ConfigError) as refusal:
        registry.get_method("mine")
    assert str(refusal.value).startswith("method=mine: ")
    assert str(path) in str(refusal.value)
    status, text, error = acdc("methods")
    assert status == ConfigError.exit_status
    assert "AC/DC" in text, "the other methods are listed"
    assert str(path) in error


@pytest.mark.parametrize("fault", SETUP)
def test_faults_of_the_setup(fault: str, write: Write, tmp_path: Path) -> None:
    refused(write, changed(*SETUP[fault]), tmp_path)


@pytest.mark.parametrize("fault", STEP)
def test_faults_of_the_first_step(fault: str, write: Write, tmp_path: Path) -> None:
    refused(write, SOUND + STEP[fault] + "\n", tmp_path)


def test_a_method_without_a_product(write: Write, tmp_path: Path) -> None:
    silent = SOUND + "\n    def product(self, step):\n        "
    refused(write, silent + "return None\n", tmp_path, epochs=2)
    # Nothing is lost: a product of the last epoch ends the run from its checkpoint.
    registry.get_method.cache_clear()
    del sys.modules["broken_methods.mine"]
    write(silent + 'return "sparse"\n' + "# of another length, so that Python compiles it again\n")
    reporter = Silent()
    result = run(tiny_config("mine", epochs=2), Options(tmp_path / "runs"), reporter)
    assert (result.status, reporter.epochs) == ("finished", [])
