"""What a pipeline draws with beside its own weights: LoRA adapters, loaded, set to a strength, unloaded.

No weight is touched: a pass goes through a network that shares all but the changed layers (`model.lora`), so
weights may be quantised, and unloading restores every bit. Knows nothing of prompts and steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import count
from types import MappingProxyType

import mlx.core as mx

from fluxnb import checks
from fluxnb.checkpoints import adapter_files
from fluxnb.checkpoints.adapters import Adapter, Use, check_fit, combine
from fluxnb.checkpoints.networks import Networks
from fluxnb.errors import InputError
from fluxnb.model.lora import Change, changed, merged
from fluxnb.model.mmdit import MMDiT


class Adapting:
    """What `FluxPipeline` inherits to draw with adapters; the names are those of diffusers.

    Attributes:
        adapters: Those that new runs are drawn with, each with its strength; a run keeps those it began with.
        own_adapters: Those that the model came with, in use or not.
    """

    adapters: tuple[Use, ...] = ()
    own_adapters: tuple[Use, ...] = ()
    _loaded: Mapping[str, tuple[str, Adapter]] = MappingProxyType({})  # name -> digest and adapter
    _combined: tuple[tuple[Use, ...], Mapping[str, Change]] = ((), MappingProxyType({}))  # the last ones

    def load_lora_weights(
        self,
        adapter: str | os.PathLike | Adapter,
        weight_name: str | None = None,
        adapter_name: str | None = None,
        scale: float = 1.0,
    ) -> None:
        """Loads an adapter and draws with it from now on, beside those that are there.

        Args:
            adapter: Path of a safetensors file or of its folder, in the names of diffusers (PEFT),
                black-forest-labs or Kohya; or what `training.finetune` returned.
            weight_name: Name of the file in the folder, where there are several.
            adapter_name: What to call it; None for the name of its file, with a number behind it where
                another adapter has that name.
            scale: Its strength: 0 for none, 1 as it was trained.

        Raises:
            InputError: if there is no such file, the name is taken, or `scale` is no number.
            CheckpointError: if it cannot be read, or is for another transformer.
        """
        scale = checks.number("scale", scale)
        config = self.networks.configs.mmdit
        if isinstance(adapter, Adapter):
            check_fit(adapter, config)
        else:
            adapter = adapter_files.read(adapter, config, weight_name)
        digest = adapter.digest()
        name = plain = adapter.name if adapter_name is None else checks.label("adapter_name", adapter_name)
        numbers = count(2)
        while name in self._loaded:
            if adapter_name is not None or self._loaded[name][0] == digest:
                raise InputError(
                    f"an adapter {name!r} is loaded already; give another adapter_name, or "
                    "unload_lora_weights()"
                )
            name = f"{plain}-{next(numbers)}"
        use = Use(name, digest, scale)
        self._loaded = {**self._loaded, name: (use.digest, adapter)}
        self.adapters = (*self.adapters, use)

    def set_adapters(
        self, adapter_names: str | Iterable[str], adapter_weights: float | Iterable[float] = 1.0
    ) -> None:
        """Draws from now on with these of the loaded adapters, and no other.

        Args:
            adapter_names: One or several.
            adapter_weights: The strength of each, or one for all.

        Raises:
            InputError: if one is not loaded, or there are more or fewer strengths than names.
        """
        names = checks.several(
            "adapter_names", [adapter_names] if isinstance(adapter_names, str) else adapter_names, str
        )
        weights = adapter_weights if isinstance(adapter_weights, Iterable) else [adapter_weights] * len(names)
        weights = [checks.number("a weight in adapter_weights", weight) for weight in weights]
        if len(weights) != len(names):
            raise InputError(f"{len(names)} adapters have {len(weights)} weights; give one for each")
        for name in names:
            if name not in self._loaded:
                held = ", ".join(map(repr, self._loaded)) or "none is"
                raise InputError(f"no adapter {name!r} is loaded, {held}; call load_lora_weights() first")
        self.adapters = tuple(
            Use(name, self._loaded[name][0], weight) for name, weight in zip(names, weights, strict=True)
        )

    def unload_lora_weights(self) -> None:
        """Drops all adapters: new runs are drawn as before, bit for bit, those drawn with them are kept."""
        self.adapters, self._loaded, self._combined = (), {}, ((), {})

    def transformer(self, adapters: tuple[Use, ...] | None = None) -> MMDiT:
        """Gives the transformer with adapters, None for those of new runs.

        Raises:
            InputError: if one of them is not loaded.
        """
        adapters = self.adapters if adapters is None else adapters
        if adapters != self._combined[0]:
            loaded = dict(self._loaded.values())
            for use in adapters:
                if use.digest not in loaded:
                    raise InputError(
                        f"it is drawn with the adapter {use.name!r} (SHA-256 {use.digest[:12]}...), which is "
                        "not loaded; load it by load_lora_weights()"
                    )
            parts = [(loaded[use.digest].layers, use.scale) for use in adapters]
            changes = combine(self.networks.configs.mmdit, parts)
            if isinstance(self.networks, Networks):  # with little memory there is no room for whole matrices
                changes = merged(self.networks.mmdit, changes)
            mx.eval([one if isinstance(one, mx.array) else (one.down, one.up) for one in changes.values()])
            self._combined = adapters, changes
        return changed(self.networks.mmdit, self._combined[1])
