"""How methods are found: each is a module, of this package or of the package ``baselines``.

A new file in ``baselines`` is a new method, with nothing to register. Modules whose names begin
with an underscore are helpers. This is the suite's one plug-in point.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from typing import Any

from acdc.messages import config_error
from acdc.methods.contract import SparseMethod
from acdc.methods.rules import check_class

BASELINES = "baselines"
OWN = ("acdc", "acdc_dense")
"""The library's own methods, modules of ``acdc.methods``."""


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, in alphabetical order."""
    package = importlib.util.find_spec(BASELINES)
    folders = package.submodule_search_locations if package else None
    found = {module.name for module in pkgutil.iter_modules(folders or [])}
    return tuple(sorted({*OWN, *(name for name in found if not name.startswith("_"))}))


@functools.cache
def get_method(name: str) -> type[SparseMethod[Any]]:
    """Return the SparseMethod called ``name`` in the module of that name.

    Raises:
        ConfigError: there is no such method, its module cannot be imported, or its class breaks a
            rule of the contract.
    """
    if name not in method_names():
        raise config_error("method", name, "unknown", method_names())
    path = f"{'acdc.methods' if name in OWN else BASELINES}.{name}"
    try:
        module = importlib.import_module(path)
    except Exception as error:  # of the method's author: any
        spec = importlib.util.find_spec(path)
        problem = f"{spec.origin if spec else path} cannot be imported: {error!r}"
        raise config_error("method", name, problem, "a module without errors") from error
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, SparseMethod)
            and getattr(value, "name", None) == name
        ):
            check_class(value)
            return value
    wanted = f"a SparseMethod with name = {name!r}"
    raise config_error("method", name, f"{module.__file__} does not define it", wanted)
