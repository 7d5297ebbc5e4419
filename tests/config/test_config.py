"""A run's description is validated in plain words and identified by its content alone."""

# ruff: noqa: E501

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from acdc.config.run import RunConfig, parse_run
from acdc.errors import ConfigError
from acdc.methods.contract import method_names
from acdc.models import MODELS

BASE: dict[str, Any] = {
    "model": "resnet8_s2",
    "dataset": "digits",
    "method": "acdc",
    "sparsity": 0.9,
    "epochs": 20,
}


def with_(**changes: Any) -> dict[str, Any]:
    """Return the description of a sound run with some keys changed."""
    return BASE | changes


def phases(*given: tuple[str, int, int], **more: Any) -> dict[str, Any]:
    return with_(settings={"schedule": None, "phases": [list(phase) for phase in given], **more})


def test_the_fingerprint_is_the_hash_of_the_whole_resolved_description() -> None:
    resolved = {
        "model": "resnet8_s2",
        "dataset": "digits",
        "method": "acdc",
        "settings": {
            "schedule": "imagenet-100",
            "phases": [],
            "dense_layers": [],
            "distribution": "global",
            "pattern": None,
            "grouping": "input",
            "reset_momentum": True,
            "selection": "exact",
        },
        "sparsity": 0.9,
        "recipe": {
            "batch_size": 128,
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 0.0005,
            "lr_schedule": "cosine",
            "warmup": 0.05,
            "milestones": [],
            "gamma": 0.1,
            "label_smoothing": 0.0,
            "augmentation": "none",
        },
        "epochs": 20,
        "seed": 1,
        "precision": "fp32",
    }
    text = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
    by_hand = hashlib.sha256(text.encode()).hexdigest()[:12]
    # Finished runs are found by it: where it changes, every run there is would be trained again.
    assert parse_run(BASE).fingerprint == by_hand == "3de1854098c7"


def test_descriptions_that_mean_the_same_are_the_same_run() -> None:
    same = [
        BASE,
        with_(seed=1, recipe={}, settings={}),
        with_(sparsity="0.9", epochs=20.0),
        dict(reversed(BASE.items())),
        with_(recipe={"lr": 1e-1, "momentum": 0.90}),
        parse_run(BASE).model_dump(),
        json.loads(parse_run(BASE).canonical_json()),
    ]
    configs = [parse_run(data) for data in same]
    assert len({config.fingerprint for config in configs}) == 1
    assert all(config == configs[0] for config in configs)
    assert parse_run(with_(sparsity=0, method="gmp")) == parse_run(
        with_(sparsity=0.0, method="gmp")
    )


CHANGES: list[dict[str, Any]] = [
    {"model": "resnet8"},
    {"dataset": "fashion_mnist_10k"},
    {"method": "gmp"},
    {"settings": {"schedule": "cifar-20"}},
    {"settings": {"distribution": "uniform"}},
    {"settings": {"dense_layers": ["conv1.weight"]}},
    {"settings": {"reset_momentum": False}},
    {"settings": {"selection": "released"}},
    {"settings": {"schedule": None, "phases": [["sparse", 0, 20]]}},
    {"sparsity": 0.91},
    {"epochs": 21},
    {"seed": 2},
    {"recipe": {"batch_size": 64}},
    {"recipe": {"lr": 0.2}},
    {"recipe": {"momentum": 0.8}},
    {"recipe": {"nesterov": True}},
    {"recipe": {"weight_decay": 0.0}},
    {"recipe": {"lr_schedule": "constant"}},
    {"recipe": {"warmup": 0.1}},
    {"recipe": {"milestones": [0.5], "lr_schedule": "step"}},
    {"recipe": {"gamma": 0.2}},
    {"recipe": {"label_smoothing": 0.1}},
    {"recipe": {"augmentation": "shift"}},
]


def test_any_changed_key_makes_another_run() -> None:
    fingerprints = [parse_run(BASE | change).fingerprint for change in CHANGES]
    assert len({parse_run(BASE).fingerprint, *fingerprints}) == 1 + len(CHANGES)
    changed = {key for change in CHANGES for key in change}
    assert changed == set(RunConfig.model_fields) - {"precision"}  # it has one value only


@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({}, "resnet8_s2_digits_acdc_s90_seed1"),
        ({"sparsity": 0.29, "seed": 12}, "resnet8_s2_digits_acdc_s29_seed12"),
        ({"sparsity": 0.985}, "resnet8_s2_digits_acdc_s98.5_seed1"),
        ({"method": "dense", "sparsity": 0}, "resnet8_s2_digits_dense_s0_seed1"),
        (
            {"method": "rigl", "settings": {"distribution": "erk"}, "dataset": "fashion_mnist"},
            "resnet8_s2_fashion_mnist_rigl-erk_s90_seed1",
        ),
    ],
)
def test_slugs_can_be_read(changes: dict[str, Any], slug: str) -> None:
    config = parse_run(BASE | changes)
    assert config.slug == slug
    assert config.run_name == f"{slug}-{config.fingerprint}"


@pytest.mark.parametrize(
    ("method", "settings", "variant"),
    [
        ("acdc", {}, ""),
        ("acdc", {"schedule": "cifar-20", "distribution": "uniform"}, "cifar-20-uniform"),
        ("acdc", {"dense_layers": ["first", "last", "first"]}, "first-last"),
        ("acdc", {"reset_momentum": False, "selection": "released"}, "no-reset_momentum-released"),
        ("acdc", {"schedule": None, "phases": [["sparse", 0, 20]]}, "phases"),
        ("gmp", {"dialect": "ist", "updates": 7}, "ist-updates7"),
        ("rigl", {"distribution": "erk"}, "erk"),
        ("rigl", {"dense_layers": [], "drop_fraction": 0.5}, "all-drop_fraction0.5"),
        ("top_kast", {"backward_sparsity": 0.5}, "backward_sparsity0.5"),
        ("str", {"s_init": -5}, "s_init-5"),
    ],
)
def test_variants_name_the_settings_that_differ_from_the_defaults(
    method: str, settings: dict[str, Any], variant: str
) -> None:
    assert parse_run(with_(method=method, settings=settings)).settings.variant() == variant


def test_names_of_runs_fit_a_file_system_however_much_is_changed() -> None:
    layers = [name for name in parse_run(BASE).layers if "conv" in name]
    config = parse_run(with_(settings={"dense_layers": layers[:6]}))
    assert len(config.settings.variant()) > 100
    assert len(config.run_name) < 130


def test_names_of_runs_are_safe_as_names_of_folders() -> None:
    for change in CHANGES:
        assert re.fullmatch(r"[a-z0-9_.+-]+", parse_run(BASE | change).run_name)


BAD: list[tuple[dict[str, Any], str]] = [
    (with_(model="resnet9"), "model: 'resnet9' is unknown; did you mean resnet8? .*resnet20.* are accepted"),
    (with_(model=5), "model: got 5; input should be a valid string"),
    (with_(dataset="digit"), "dataset: 'digit' is unknown; did you mean digits? .* are accepted"),
    (with_(method="acd"), "method: 'acd' is unknown; did you mean acdc? .*rigl.* are accepted"),
    (with_(method=5), "method: got 5; input should be a valid string"),
    (with_(sparsty=0.9), "sparsty: unknown key; did you mean sparsity? .*epochs.* are accepted"),
    (with_(recipe={"momentun": 1}), "recipe.momentun: unknown key; did you mean momentum? .* are accepted"),
    (with_(settings={"schedul": 1}), "settings.schedul: unknown key; did you mean schedule? .* are accepted"),
    (with_(method="dense", sparsity=0, settings={"x": 1}), "settings.x: unknown key; no keys are accepted"),
    ({k: v for k, v in BASE.items() if k != "epochs"}, "epochs: missing; a value is needed"),
    (with_(sparsity=1.0), "sparsity: 1.0 is out of range; [0, 1) is accepted"),
    (with_(sparsity=-0.1), "sparsity: -0.1 is out of range; [0, 1) is accepted"),
    (with_(sparsity=float("nan")), "sparsity: nan is out of range; [0, 1) is accepted"),
    (with_(sparsity="much"), "sparsity: got 'much'; input should be a valid number.*"),
    (with_(sparsity=None), "sparsity: got None; input should be a valid number"),
    (with_(sparsity=[0.9]), "sparsity: got [0.9]; input should be a valid number"),
    (with_(epochs=0), "epochs: 0 is out of range; [1, inf) is accepted"),
    (with_(epochs=2.5), "epochs: got 2.5; input should be a valid integer.*"),
    (with_(seed=-1), "seed: -1 is out of range; [0, inf) is accepted"),
    (with_(recipe=5), "recipe: got 5; a mapping of keys to values is accepted"),
    (with_(settings=5), "settings: got 5; a mapping of keys to values is accepted"),
    (with_(recipe={"lr": 0}), "recipe.lr: 0 is out of range; (0, inf) is accepted"),
    (with_(recipe={"lr": float("inf")}), "recipe.lr: inf is out of range; (0, inf) is accepted"),
    (with_(recipe={"momentum": 1}), "recipe.momentum: 1 is out of range; [0, 1) is accepted"),
    (with_(recipe={"nesterov": True, "momentum": 0}), "recipe.nesterov: true goes only with .* false is accepted"),
    (with_(recipe={"lr_schedule": "cos"}), "recipe.lr_schedule: got 'cos'; 'cosine', 'step' or 'constant' are accepted"),
    (with_(recipe={"milestones": [40]}), "recipe.milestones.0: got 40; less than 1.0 is accepted"),
    (with_(recipe={"batch_size": 5000}), "recipe.batch_size: 5000 is more than the 1294 training images of digits; 1 to 1294 is accepted"),
    (with_(precision="fp8"), "precision: got 'fp8'; .* are accepted"),
    (with_(epochs=5), "epochs: 5 is too short for this schedule: .* at least 20 epochs are accepted"),
    (with_(settings={"schedule": "cifar"}), "settings.schedule: 'cifar' is unknown; imagenet-100, .* are accepted"),
    (with_(settings={"phases": [["sparse", 0, 20]]}), "settings.phases: give either a schedule or phases .* not both"),
    (phases(), "settings.phases: give either a schedule or phases .* not neither"),
    (phases(("dense", 0, 10), ("sparse", 10, 15), ("dense", 15, 20)), "settings.phases: the last phase is dense; a final sparse phase is needed.*"),
    (phases(("dense", 0, 10), ("sparse", 9, 20)), r"settings.phases[1]: starts at epoch 9; it must start at 10.*"),
    (phases(("dense", 0, 10), ("sparse", 10, 21)), "settings.phases: they end at epoch 21; they must end at epoch 20.*"),
    (phases(("dens", 0, 10), ("sparse", 10, 20)), "settings.phases.0.0: got 'dens'; 'dense' or 'sparse' are accepted"),
    (with_(settings={"pattern": "4:2"}), "settings.pattern: '4:2' is not N:M with 0 < N < M; .*"),
    (with_(settings={"pattern": "2:4"}), "sparsity: 0.9 does not go with settings.pattern 2:4; 0.5 is accepted"),
    (with_(sparsity=0.5, settings={"pattern": "2:4"}), "settings.pattern: 2:4 needs groups of 4, and the 1 inputs of conv1.weight are no multiple of it; .*"),
    (with_(settings={"pattern": "2:4", "distribution": "uniform"}), "settings.pattern: 2:4 says by itself what is kept; .*"),
    (with_(settings={"grouping": "flat"}), "settings.grouping: flat is accepted only with a settings.pattern"),
    (with_(settings={"dense_layers": ["conv9.weight"]}), "settings.dense_layers: 'conv9.weight' is not a prunable layer of this model; first, last, depthwise, shortcut, conv1.weight, .* are accepted"),
    (with_(settings={"distribution": "layer"}), "settings.distribution: got 'layer'; 'global' or 'uniform' are accepted"),
    (with_(method="dense"), "sparsity: 0.9 does not go with method dense; 0 is accepted"),
    (with_(method="rigl", sparsity=0), "sparsity: 0 leaves RigL nothing to move; a value above 0 is accepted"),
    (with_(method="rigl", settings={"update_interval": 0}), "settings.update_interval: 0 is out of range; [1, inf) is accepted"),
    (with_(method="top_kast", settings={"refresh_interval": 0}), "settings.refresh_interval: 0 is out of range; [1, inf) is accepted"),
    (with_(method="rigl", sparsity=1e-6, settings={"distribution": "erk"}), "sparsity: 1e-06 under settings.distribution erk makes every layer dense; a higher one is accepted"),
    (with_(method="gmp", settings={"dense_layers": ["conv1.weight", "layers"]}), "settings.dense_layers: 'layers' is not a prunable layer of this model; .*"),
    (with_(method="sr_ste", sparsity=0.5, settings={"dense_layers": []}), "settings.pattern: 2:4 needs groups of 4, and the 1 inputs of conv1.weight are no multiple of it; .*"),
    (with_(method="gmp", settings={"begin": 0.8, "end": 0.3}), "settings.begin: 0.8 is not before settings.end 0.3; a value below it is accepted"),
    (with_(method="top_kast", settings={"backward_sparsity": 0.95}), "settings.backward_sparsity: 0.95 is above the forward sparsity 0.9; a value up to it is accepted"),
    (with_(method="top_kast", settings={"backward_sparsity": 2}), "settings.backward_sparsity: 2 is out of range; [0, 1) is accepted"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "sentence"), BAD, ids=[sentence[:50] for _, sentence in BAD])
def test_a_mistake_is_one_sentence_with_key_value_and_what_is_accepted(
    data: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(data)
    pattern = ".*".join(re.escape(part) for part in sentence.split(".*"))
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("data", [None, [], 5, "acdc"])
def test_what_is_no_mapping_is_refused_as_such(data: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"the description: got .*; a mapping of keys to values is"
    ):
        parse_run(data)


def test_several_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(with_(sparsity=2, epochs=0))
    assert str(caught.value) == (
        "sparsity: 2 is out of range; [0, 1) is accepted; "
        "epochs: 0 is out of range; [1, inf) is accepted"
    )


def test_a_description_cannot_be_changed_afterwards() -> None:
    config = parse_run(BASE)
    with pytest.raises(ValidationError):
        config.sparsity = 0.5  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.recipe.lr = 0.5  # type: ignore[misc]


def test_a_model_without_prunable_layers_or_with_none_left_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "pooling", lambda channels, classes: nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ConfigError, match="model: pooling has no convolution and no linear layer"):
        parse_run(with_(model="pooling"))
    monkeypatch.setitem(MODELS, "linear", lambda channels, classes: nn.Linear(channels, classes))
    with pytest.raises(ConfigError, match=r"settings\.dense_layers: first leave no layer to prune"):
        parse_run(with_(model="linear", settings={"dense_layers": ["first"]}))


def test_every_method_accepts_its_own_defaults() -> None:
    # Not any sparsity goes with dense training, nor with the pattern 2:4.
    sparsities = {"dense": 0.0, "sr_ste": 0.5}
    for method in method_names():
        config = parse_run(with_(method=method, sparsity=sparsities.get(method, 0.9)))
        assert config.settings == config.method_class.Settings()
        for field in config.method_class.Settings.model_fields.values():
            assert field.description, "every setting is described"
