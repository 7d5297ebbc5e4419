"""The rules of the contract that can be checked: of a method's class, and of what it does."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from acdc.errors import ConfigError
from acdc.messages import config_error
from acdc.methods.contract import Deviation, Product, SparseMethod
from acdc.methods.settings import MethodSettings
from acdc.step import Step

_PRUNING_HOOKS = ("setup", "epoch_start", "before_step", "after_step")
_SAVED = (bool, int, float, str, bytes, type(None))


def broken(method: type[SparseMethod[Any]], problem: str, allowed: str) -> ConfigError:
    """Return the error of a method that breaks a rule; names its file."""
    file = getattr(sys.modules.get(method.__module__), "__file__", method.__module__)
    return config_error("method", method.name, f"{file}: {problem}", allowed)


def check_class(method: type[SparseMethod[Any]]) -> None:
    """Raise ConfigError unless the class of a method declares what the contract asks for."""
    for key in ("label", "source", "flops_formula"):
        if not isinstance(getattr(method, key, None), str):
            raise broken(method, f"{key} is missing", f"a class attribute {key}, a string")
    names = get_args(Product)
    for key, kind in (("products", tuple), ("resumable", frozenset)):
        value = getattr(method, key)
        if not isinstance(value, kind) or not set(value) <= set(names):
            allowed = f"a {kind.__name__} of {' and '.join(names)}"
            raise broken(method, f"{key} is {value!r}", allowed)
    if len(set(method.products)) != len(method.products) or not method.products:
        raise broken(method, f"products is {method.products!r}", "one or both, each once")
    if not method.resumable <= set(method.products):
        raise broken(method, "resumable has what products has not", "some of products")
    settings = method.Settings
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise broken(method, f"Settings is {settings!r}", "a subclass of MethodSettings")
    if not all(isinstance(deviation, Deviation) for deviation in method.deviations):
        raise broken(method, "deviations has other values", "a tuple of Deviation")
    if inspect.isabstract(method):
        raise broken(method, "its class is abstract", "a class that defines all abstract hooks")
    never = all(getattr(method, hook) is getattr(SparseMethod, hook) for hook in _PRUNING_HOOKS)
    if never and "sparse" in method.products:
        problem = "yields a sparse model and never prunes"
        raise broken(method, problem, f"one of the hooks {', '.join(_PRUNING_HOOKS)}")


def check_state(method: SparseMethod[Any]) -> None:
    """Raise ConfigError unless masks and state of a method are as the contract asks.

    Reads no number from the device, so that it may be called at any time.
    """
    kind = type(method)
    if not hasattr(method, "weights"):
        allowed = "super().setup(context) as its first line"
        raise broken(kind, "setup does not call that of SparseMethod", allowed)
    for name, mask in method.masks.items():
        weight = method.weights.get(name)
        if weight is None:
            raise broken(kind, f"masks[{name!r}] is of no layer", ", ".join(method.weights))
        allowed = f"a bool tensor of shape {tuple(weight.shape)} on {weight.device}"
        if not isinstance(mask, Tensor):
            raise broken(kind, f"masks[{name!r}] is a {type(mask).__name__}", allowed)
        if (mask.dtype, mask.shape, mask.device) != (torch.bool, weight.shape, weight.device):
            found = f"a {mask.dtype} of shape {tuple(mask.shape)} on {mask.device}"
            raise broken(kind, f"masks[{name!r}] is {found}", allowed)
    _check_saved(kind, method.state_dict(), "state_dict()")


def _check_saved(kind: type[SparseMethod[Any]], value: object, where: str) -> None:
    """Raise ConfigError where a state holds what a checkpoint cannot: it has no pickled code."""
    if isinstance(value, Tensor) or type(value) in _SAVED:
        return
    if type(value) not in (dict, list, tuple):
        allowed = "tensors, numbers, strings, and dictionaries, lists and tuples of them"
        raise broken(kind, f"{where} is a {type(value).__name__}", allowed)
    assert isinstance(value, Mapping | Sequence)
    for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        _check_saved(kind, part, f"{where}[{key!r}]")


def checked_step(method: SparseMethod[Any], step: Step) -> bool:
    """Call ``before_step``; return whether the optimizer steps."""
    stepped = method.before_step(step)
    if not isinstance(stepped, bool):
        raise broken(type(method), f"before_step returned {stepped!r}", "true or false")
    return stepped


def checked_rate(method: SparseMethod[Any], step: Step, rate: float) -> float:
    """Return the learning rate of a step, the recipe's being ``rate``."""
    found = method.learning_rate(step, rate)
    if not isinstance(found, float | int) or not 0 <= found < math.inf:
        raise broken(type(method), f"learning_rate returned {found!r}", "a number >= 0")
    return found


def checked_product(method: SparseMethod[Any], step: Step) -> Product | None:
    """Return the product that the weights are a candidate for at a step, if any."""
    product = method.product(step)
    if product is not None and product not in method.products:
        allowed = f"None or one of products: {', '.join(method.products)}"
        raise broken(type(method), f"product returned {product!r}", allowed)
    return product
