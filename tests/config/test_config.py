"""A run's description is validated in plain words and identified by its content alone."""

# ruff: noqa: E501

import hashlib
import json
import re
from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from acdc.config.recipe import Recipe
from acdc.config.run import RunConfig, parse_run
from acdc.errors import ConfigError
from acdc.messages import config_error
from acdc.methods.registry import method_names
from acdc.models import MODELS, Architecture

BASE: dict[str, Any] = {
    "model": "resnet8_s2", "dataset": "digits", "method": "acdc", "sparsity": 0.9, "epochs": 20
}  # fmt: skip


def with_(**changes: Any) -> dict[str, Any]:
    """Return the description of a sound run with some keys changed."""
    return BASE | changes


def phases(*given: tuple[str, int, int], **more: Any) -> dict[str, Any]:
    return with_(settings={"schedule": None, "phases": [list(phase) for phase in given], **more})


def test_fingerprint_hashes_the_resolved_configuration() -> None:
    resolved = {
        "model": "resnet8_s2",
        "dataset": "digits",
        "method": "acdc",
        "settings": {
            "schedule": "imagenet-100", "phases": [], "dense_layers": [], "distribution": "global",
            "pattern": None, "grouping": "input", "reset_momentum": True, "selection": "exact"
        },
        "sparsity": 0.9,
        "recipe": {
            "batch_size": 128, "lr": 0.1, "momentum": 0.9, "nesterov": False,
            "weight_decay": 0.0005, "lr_schedule": "cosine", "warmup": 0.05, "milestones": [],
            "gamma": 0.1, "label_smoothing": 0.0, "augmentation": "none"
        },
        "epochs": 20,
        "seed": 1,
        "precision": "fp32",
    }  # fmt: skip
    text = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
    by_hand = hashlib.sha256(text.encode()).hexdigest()[:12]
    # Finished runs are found by it: where it changes, every run there is would be trained again.
    assert parse_run(BASE).fingerprint == by_hand == "3de1854098c7"


def test_equal_configurations_are_one_run() -> None:
    same = [
        BASE, with_(seed=1, recipe={}, settings={}), dict(reversed(BASE.items())),
        with_(recipe={"lr": 1e-1, "momentum": 0.90}),
        with_(recipe={"optimizer": "sgd", "betas": [0.9, 0.999], "clip_norm": None, "final_lr": 0}),
        parse_run(BASE).model_dump(), json.loads(json.dumps(parse_run(BASE).plain()))]  # fmt: skip
    configs = [parse_run(data) for data in same]
    assert len({config.fingerprint for config in configs}) == 1
    assert all(config == configs[0] for config in configs)
    assert parse_run(with_(sparsity=0, method="gmp")) == parse_run(
        with_(sparsity=0.0, method="gmp")
    )


CHANGES: list[dict[str, Any]] = [
    {"model": "resnet8"}, {"dataset": "fashion_mnist_10k"}, {"method": "gmp"},
    {"settings": {"schedule": "cifar-20"}}, {"settings": {"distribution": "uniform"}},
    {"settings": {"dense_layers": ["conv1.weight"]}}, {"settings": {"reset_momentum": False}},
    {"settings": {"selection": "released"}},
    {"settings": {"schedule": None, "phases": [["sparse", 0, 20]]}}, {"sparsity": 0.91},
    {"epochs": 21}, {"seed": 2}, {"recipe": {"batch_size": 64}}, {"recipe": {"lr": 0.2}},
    {"recipe": {"momentum": 0.8}}, {"recipe": {"nesterov": True}},
    {"recipe": {"weight_decay": 0.0}}, {"recipe": {"lr_schedule": "constant"}},
    {"recipe": {"warmup": 0.1}}, {"recipe": {"milestones": [0.5], "lr_schedule": "step"}},
    {"recipe": {"milestones": [0.5], "lr_schedule": "step", "gamma": 0.2}},
    {"recipe": {"label_smoothing": 0.1}}, {"recipe": {"augmentation": "shift"}},
    {"recipe": {"optimizer": "adamw"}}, {"recipe": {"optimizer": "lamb"}},
    {"recipe": {"optimizer": "lamb", "betas": [0.9, 0.99]}}, {"recipe": {"clip_norm": 0.25}},
    {"recipe": {"final_lr": 1e-4}}]  # fmt: skip


def test_any_changed_key_makes_another_run() -> None:
    fingerprints = [parse_run(BASE | change).fingerprint for change in CHANGES]
    assert len({parse_run(BASE).fingerprint, *fingerprints}) == 1 + len(CHANGES)
    reread = [parse_run(parse_run(BASE | change).plain()).fingerprint for change in CHANGES]
    assert reread == fingerprints
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
def test_variants_name_settings(method: str, settings: dict[str, Any], variant: str) -> None:
    assert parse_run(with_(method=method, settings=settings)).settings.variant() == variant


def test_run_names_are_short() -> None:
    layers = [name for name in parse_run(BASE).layers if "conv" in name]
    config = parse_run(with_(settings={"dense_layers": layers[:6]}))
    assert len(config.settings.variant()) > 100
    assert len(config.run_name) < 130


def test_run_names_are_safe() -> None:
    for change in CHANGES:
        assert re.fullmatch(r"[a-z0-9_.+-]+", parse_run(BASE | change).run_name)


BAD: list[tuple[dict[str, Any], str]] = [
    (with_(model="resnet9"), "model"),
    (with_(model=5), "model"),
    (with_(dataset="digit"), "dataset"),
    (with_(method="acd"), "method"),
    (with_(method=5), "method"),
    (with_(sparsty=0.9), "sparsty"),
    (with_(recipe={"momentun": 1}), "recipe.momentun"),
    (with_(settings={"schedul": 1}), "settings.schedul"),
    (with_(method="dense", sparsity=0, settings={"x": 1}), "settings.x"),
    ({k: v for k, v in BASE.items() if k != "epochs"}, "epochs"),
    (with_(sparsity=1.0), "sparsity"),
    (with_(sparsity=-0.1), "sparsity"),
    (with_(sparsity=float("nan")), "sparsity"),
    (with_(sparsity="much"), "sparsity"),
    (with_(sparsity=None), "sparsity"),
    (with_(sparsity=[0.9]), "sparsity"),
    (with_(epochs=0), "epochs"),
    (with_(epochs=2.5), "epochs"),
    (with_(seed=-1), "seed"),
    (with_(recipe=5), "recipe"),
    (with_(settings=5), "settings"),
    (with_(recipe={"lr": 0}), "recipe.lr"),
    (with_(recipe={"lr": float("inf")}), "recipe.lr"),
    (with_(recipe={"momentum": 1}), "recipe.momentum"),
    (with_(recipe={"nesterov": True, "momentum": 0}), "recipe.nesterov"),
    (with_(recipe={"lr_schedule": "cos"}), "recipe.lr_schedule"),
    (with_(recipe={"optimizer": "adam"}), "recipe.optimizer"),
    (with_(recipe={"optimizer": "lamb", "betas": [0.9]}), "recipe.betas.1"),
    (with_(recipe={"optimizer": "lamb", "betas": [0.9, 1]}), "recipe.betas.1"),
    (with_(recipe={"clip_norm": 0}), "recipe.clip_norm"),
    (with_(recipe={"lr": 0.1, "final_lr": 0.1}), "recipe.final_lr"),
    (with_(recipe={"milestones": [40]}), "recipe.milestones.0"),
    (with_(recipe={"batch_size": 5000}), "recipe.batch_size"),
    (with_(precision="fp8"), "precision"),
    (with_(epochs=5), "epochs"),
    (with_(settings={"schedule": "cifar"}), "settings.schedule"),
    (with_(settings={"phases": [["sparse", 0, 20]]}), "settings.phases"),
    (phases(), "settings.phases"),
    (phases(("dens", 0, 10), ("sparse", 10, 20)), "settings.phases.0.0"),
    (phases(("dense", 0, 10), ("sparse", 9, 20)), "settings.phases[1].start"),
    (phases(("sparse", 0, 20)) | {"method": "acdc_dense"}, "settings.phases"),
    (with_(settings={"distribution": "layer"}), "settings.distribution"),
    (with_(settings={"dense_layers": ["conv9.weight"]}), "settings.dense_layers"),
    (with_(settings={"grouping": "flat"}), "settings.grouping"),
    (with_(settings={"pattern": "2:4", "distribution": "uniform"}), "settings.pattern"),
    (with_(settings={"pattern": "2:4"}), "sparsity"),
    (with_(sparsity=0.5, settings={"pattern": "2:4"}), "settings.pattern"),
    (with_(sparsity=0.5, settings={"pattern": "7:14", "grouping": "flat"}), "settings.pattern"),
    *((with_(settings={"pattern": text}), "settings.pattern")
      for text in ("", "2", "2:", "4:2", "4:4", "0:4", "-1:4", "2:4:8", "2 : 4")),
    (with_(method="dense"), "sparsity"),
    (with_(method="dpf", settings={"begin": 0.6}), "settings.begin"),
    (with_(method="dsd", sparsity=0), "sparsity"),
    (with_(method="dsd", epochs=2), "epochs"),
    (with_(method="dsd", settings={"sparse_begin": 0.8}), "settings.sparse_begin"),
    (with_(method="gmp", settings={"begin": 0.8, "end": 0.3}), "settings.begin"),
    (with_(method="gmp", settings={"initial_sparsity": 0.95}), "settings.initial_sparsity"),
    (with_(method="gmp", settings={"nbins": 255}), "settings.nbins"),
    (with_(method="gmp", settings={"threshold_decay": 0.9}), "settings.threshold_decay"),
    (with_(method="gmp", settings={"dialect": "contrib", "distribution": "global"}), "settings.distribution"),
    (with_(method="gmp", settings={"dialect": "ist", "updates": 1}), "settings.end"),
    *((with_(method=method, sparsity=0), "sparsity") for method in ("rigl", "set", "snfs")),
    (with_(method="rigl", settings={"begin": 0.5, "end": 0.5}), "settings.begin"),
    (with_(method="rigl", settings={"update_interval": 0}), "settings.update_interval"),
    *((with_(method="rigl", sparsity=1e-6, settings={"distribution": spread}), "sparsity")
      for spread in ("uniform", "erk", "er")),
    *((with_(method="set", settings={"dialect": "original", key: value}), f"settings.{key}")
      for key, value in {"update_interval": 0.1, "anneal": "constant", "begin": 0.1, "end": 0.5,
                         "drop_noise": 0.0}.items()),
    (with_(method="sr_ste", sparsity=0.5, settings={"dense_layers": []}), "settings.pattern"),
    (with_(method="sr_ste", settings={"strength": -1}), "settings.strength"),
    (with_(method="top_kast", settings={"backward_sparsity": 0.95}), "settings.backward_sparsity"),
    (with_(method="top_kast", settings={"backward_sparsity": 2}), "settings.backward_sparsity"),
    (with_(method="top_kast", settings={"refresh_interval": 0}), "settings.refresh_interval"),
    (with_(method="woodfisher", epochs=1), "epochs"),
    (with_(method="woodfisher", settings={"begin": 0.5}), "settings.begin"),
    (with_(method="woodfisher", settings={"initial_sparsity": 0.95}), "settings.initial_sparsity"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "key"), BAD)
def test_errors_name_the_key(data: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}[=:]"):
        parse_run(data)


WHOLE = ("epochs", "seed", "recipe.batch_size")
REAL = (
    "sparsity",
    *(
        f"recipe.{key}"
        for key in (
            "lr", "momentum", "weight_decay", "warmup", "final_lr", "gamma", "label_smoothing"
        )
    ),
)  # fmt: skip
NO_NUMBER = (
    True, False, "1", "0.5", "", None, float("nan"), float("inf"), -float("inf"), [0.5], {}
)  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
@pytest.mark.parametrize("key", [*WHOLE, *REAL, "recipe.milestones.0", "settings.drop_fraction"])
def test_only_a_number_is_a_number(key: str, value: Any) -> None:
    data = with_(method="rigl", settings={}, recipe={"lr_schedule": "step"})
    if key == "recipe.milestones.0":
        data["recipe"]["milestones"] = [value]
    else:
        data["recipe"]["milestones"] = [0.5]
        group, _, name = key.rpartition(".")
        (data[group] if group else data)[name] = value
    with pytest.raises(ConfigError, match=rf"(^|; ){re.escape(key)}[=:]"):
        parse_run(data)


@pytest.mark.parametrize(
    "value", [0.5, 1e30, 10**7, -1, 2**64, 10**400], ids=lambda v: f"{str(v)[:8]}"
)
@pytest.mark.parametrize("key", WHOLE)
def test_sizes_have_bounds(key: str, value: float) -> None:
    if key == "seed" and value == 10**7:
        assert parse_run(with_(seed=value)).seed == value
        return
    data = (
        with_(recipe={"batch_size": value}) if key == "recipe.batch_size" else with_(**{key: value})
    )
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=") as caught:
        parse_run(data)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "values", [[0.9, 0.5], [0.5, 0.5], [0.2, 0.8, 0.5], [0.5, 0.2, 0.8], [0.9, 0.5, 0.5]]
)
def test_milestones_are_in_order(values: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.milestones="):
        parse_run(with_(recipe={"lr_schedule": "step", "milestones": values}))


@pytest.mark.parametrize(
    ("choice", "key", "value"),
    [
        *((s, "gamma", 0.5) for s in ("cosine", "cosine_by_step", "constant")),
        *((s, "milestones", [0.5]) for s in ("cosine", "cosine_by_step", "constant")),
        *((s, "warmup", value) for s in ("step", "constant") for value in (0.0, 0.1)),
        *((s, "final_lr", 0.01) for s in ("step", "constant")),
        *(
            (o, *pair)
            for o in ("adamw", "lamb")
            for pair in (("momentum", 0.8), ("nesterov", True))
        ),
        ("sgd", "betas", [0.8, 0.99]),
    ],
)
def test_what_has_no_effect_makes_no_other_run(choice: str, key: str, value: Any) -> None:
    steps = {"milestones": [0.5]} if choice == "step" else {}
    chosen = "optimizer" if choice in ("sgd", "adamw", "lamb") else "lr_schedule"
    recipe = {chosen: choice, **steps}
    with pytest.raises(ConfigError, match=rf"^recipe\.{key}="):
        parse_run(with_(recipe=recipe | {key: value}))
    default = json.loads(json.dumps(Recipe.model_fields[key].default))
    assert parse_run(with_(recipe=recipe | {key: default})) == parse_run(with_(recipe=recipe))


def test_a_value_of_any_size_is_a_short_message() -> None:
    bomb: Any = ["lol"]
    for _ in range(40):
        bomb = [bomb] * 10
    for value in (
        "x" * 10**6,
        list(range(10**4)),
        {str(n): n for n in range(10**4)},
        10**5000,
        "a\nb",
    ):
        for key in ("model", "sparsity", "recipe", "settings", "sparsty"):
            with pytest.raises(ConfigError) as caught:
                parse_run(with_(**{key: value}))
            assert len(str(caught.value)) < 4000
            assert "\n" not in str(caught.value)
    assert len(str(config_error("model", bomb, "unknown", ["a"]))) < 500


@pytest.mark.parametrize("data", [None, [], 5, "acdc"])
def test_what_is_no_mapping_is_refused_as_such(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the description"):
        parse_run(data)


def test_several_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(with_(sparsity=2, epochs=0))
    assert re.match(r"sparsity.*epochs", str(caught.value))


def test_configurations_are_frozen() -> None:
    config = parse_run(BASE)
    with pytest.raises(ValidationError):
        config.sparsity = 0.5  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.recipe.lr = 0.5  # type: ignore[misc]


def test_models_without_a_layer_to_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    pooling = Architecture(lambda channels, classes: nn.AdaptiveAvgPool2d(1))
    monkeypatch.setitem(MODELS, "pooling", pooling)
    with pytest.raises(ConfigError, match=r"^model[:=]"):
        parse_run(with_(model="pooling"))
    monkeypatch.setitem(MODELS, "linear", Architecture(nn.Linear))
    with pytest.raises(ConfigError, match=r"^settings\.dense_layers="):
        parse_run(with_(model="linear", settings={"dense_layers": ["first"]}))


def test_every_method_accepts_its_own_defaults() -> None:
    # Not any sparsity goes with dense training, nor with the pattern 2:4.
    sparsities = {"dense": 0.0, "sr_ste": 0.5}
    for method in method_names():
        config = parse_run(with_(method=method, sparsity=sparsities.get(method, 0.9)))
        assert config.settings == config.method_class.Settings()
        for field in config.method_class.Settings.model_fields.values():
            assert field.description, "every setting is described"
