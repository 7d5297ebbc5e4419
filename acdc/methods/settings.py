"""Settings of a method beside the sparsity: validated, with a short name for tables."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from acdc.frozen import Frozen
from acdc.messages import config_error
from acdc.sparsity.layers import Layers, dense_layers, embeddings


class MethodSettings(Frozen):
    """The base of all settings; a method without any uses this class itself."""

    def variant(self) -> str:
        """Return a short name for these settings in run names and tables, empty for the default."""
        return self.named_changes()

    def named_changes(self, *apart: str) -> str:
        """Return what differs from the defaults, without the settings named in ``apart``."""
        parts = []
        for key, schema in type(self).model_fields.items():
            value = getattr(self, key)
            if key in apart or value is None or value == schema.get_default():
                continue
            if isinstance(value, bool):
                parts.append(key if value else f"no-{key}")
            elif isinstance(value, int | float):
                parts.append(f"{key}{value:g}")
            elif isinstance(value, str):
                parts.append(value.replace(":", "of"))
            elif all(isinstance(item, str) for item in value):
                parts += value or [f"no-{key}"]
            else:
                parts.append(key)
        return "-".join(parts)

    def exempt(self, layers: Layers) -> tuple[str, ...]:
        """Return the layers that the sparsity does not count over, by default embeddings.

        Raises:
            ConfigError: the settings name unknown layers, or leave none to prune.
        """
        return embeddings(layers)


class ScopedSettings(MethodSettings):
    """Settings of a method that can keep layers dense."""

    dense_layers: tuple[str, ...] = ()
    """Layers that stay dense: names of weights, or first, last, depthwise, shortcut; the sparsity
    counts over the others."""

    @field_validator("dense_layers")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    def exempt(self, layers: Layers) -> tuple[str, ...]:
        return dense_layers(layers, self.dense_layers)


def check_order(settings: Any, begin: str = "begin", end: str = "end") -> None:
    """Check that one setting is below another.

    Raises:
        ConfigError: the setting named ``begin`` is not below the one named ``end``.
    """
    first, last = getattr(settings, begin), getattr(settings, end)
    if first >= last:
        raise config_error(
            f"settings.{begin}", first, "ends before it begins", f"below settings.{end}={last}"
        )
