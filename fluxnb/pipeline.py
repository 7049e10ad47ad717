"""The four networks together: text to embedding, latents to velocity, latents to picture, prompt to picture.

A `FluxPipeline` remembers nothing between calls, but in low memory mode the last texts, whose encoders are
gone by then; a session (`fluxnb.session`) keeps the steps of a run.
Letters: see `fluxnb.model`. Latents are float32, (1, H, W, C), normalised as the transformer sees them.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import mlx.core as mx
from PIL import Image

from fluxnb import backend, checks, flow, interrupts, memory, texts
from fluxnb.adapting import Adapting
from fluxnb.asked import tokens
from fluxnb.checkpoints import native, store
from fluxnb.checkpoints.adapters import Use
from fluxnb.checkpoints.networks import Networks, SwappedNetworks
from fluxnb.checkpoints.sources import PACKAGE
from fluxnb.checkpoints.vocabulary import Vocabulary
from fluxnb.decoding import Decoding
from fluxnb.diffusionkit import DiffusionKitCalls
from fluxnb.drawing import draw
from fluxnb.errors import FluxnbWarning, InputError
from fluxnb.flow import Step
from fluxnb.model import mmdit
from fluxnb.model.layers import Attend, attention
from fluxnb.settings import Settings, fill_in, warn_of_no_effect
from fluxnb.source import Source, read
from fluxnb.texts import TextEmbedding

TEXTS_KEPT = 8  # embeddings in low memory mode; 8 MB each for FLUX.1-dev


class FluxPipeline(Adapting, Decoding, DiffusionKitCalls):
    """FLUX.1, loaded and ready; all its arrays are evaluated, so any thread may call it, one at a time.

    Args:
        model_version: Name in the catalog, e.g. "fluxnb/demo", which needs no network; any "owner/name" on
            the hub, which is downloaded as far as it is not in the cache; or the path of a folder or file.
        shift: Static shift of every run that names none; None for the model's own.
        low_memory_mode: Have text encoders, or transformer and autoencoder, in memory, never both; a new
            prompt then reads the encoders from the disk again.
        a16: Compute in bfloat16, but for times, latents and the encoding of pictures; False for float32.
        w16: Keep weights in bfloat16; False for the model's own, float32 for the demo, bfloat16 for FLUX.1.
        quantize: Bits of a weight in the blocks of transformer and T5, 3, 4, 6 or 8; None for as they are.
        local_ckpt: Folder or file to take the weights from. What it lacks, and the defaults of a model of
            other sizes than FLUX.1's, are those of `model_version`.
        revision: Branch, tag or commit of a model on the hub, None for the newest.
        preview: Tiny autoencoder to load as well, see `load_preview`; None for none.
        use_t5: For DiffusionKit's sake: FLUX.1 always reads by T5, so False changes nothing, with a warning.

    Raises:
        UnknownModelError: if there is no such name.
        InputError: if there is no such revision, or an argument is none of these.
        DownloadError: if the model cannot be had from the hub.
        CheckpointError: if the files are none of that model.
    """

    def __init__(
        self,
        model_version: str = "fluxnb/demo",
        shift: float | None = None,
        low_memory_mode: bool = False,
        a16: bool = False,
        w16: bool = False,
        quantize: int | None = None,
        local_ckpt: str | None = None,
        revision: str | None = None,
        preview: str | None = None,
        use_t5: bool = True,
    ):
        """Loads the networks."""
        shift = None if shift is None else checks.number("shift", shift, above=0)
        if not checks.flag("use_t5", use_t5):
            warnings.warn(
                "use_t5=False has no effect: FLUX.1 always reads by T5", FluxnbWarning, stacklevel=2
            )
        options = {"low_memory_mode": low_memory_mode, "a16": a16, "w16": w16, "quantize": quantize}
        options |= {"local_ckpt": local_ckpt, "revision": revision}
        self._take(store.load(model_version, **options), shift)
        self.arguments = {"model_version": model_version, "shift": shift, **options}
        if self.entry.adapter is not None:
            self.load_lora_weights(PACKAGE / self.entry.adapter, adapter_name=self.entry.adapter)
            self.own_adapters = self.adapters
        if preview is not None:
            self.load_preview(preview)

    @classmethod
    def from_networks(cls, networks: Networks | SwappedNetworks, shift: float | None = None) -> FluxPipeline:
        """Makes a pipeline of networks that are there already, all their parameters evaluated."""
        pipeline = cls.__new__(cls)
        pipeline._take(networks, None if shift is None else checks.number("shift", shift, above=0))
        return pipeline

    def _take(self, networks: Networks | SwappedNetworks, shift: float | None) -> None:
        """Keeps the networks, and their defaults with the shift that is wished."""
        self.arguments: dict[str, object] | None = None  # that load it again; None if it was not loaded
        self.networks = networks
        self._encode = partial(texts.encode, networks)
        if isinstance(networks, SwappedNetworks):
            self._encode = lru_cache(TEXTS_KEPT)(self._encode)
        self.entry = networks.entry if shift is None else replace(networks.entry, shift=shift)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Saves the model as it is in memory, to be loaded again by its path, with the same bits.

        Args:
            path: Of a folder; it is written whole or not at all, see `checkpoints.native`.
            overwrite: Replace a model that was saved there.

        Returns:
            The folder.

        Raises:
            InputError: if something else is there, it cannot be written, or adapters are in use.
            FluxnbError: if the disk fails or is full; what was there before is still there.
        """
        if self.adapters:
            raise InputError(
                "adapters are in use, which stay files of their own; unload_lora_weights(), then save"
            )
        folder = Path(os.path.expanduser(path))
        native.write(folder, self.networks, self.entry, overwrite)
        return folder

    def __repr__(self) -> str:
        """Names the model."""
        return f"FluxPipeline({self.entry.name!r})"

    @property
    def blocks(self) -> tuple[int, int]:
        """Numbers of double and of single blocks."""
        config = self.networks.configs.mmdit
        return config.depth, config.depth_single

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words and sizes that the model was taught, `vocabulary.objects` and so on; None if unknown."""
        return self.networks.vocabulary

    def encode_text(self, text: str, cfg_weight: float = 0.0, negative_text: str = "") -> TextEmbedding:
        """Encodes a text by both encoders.

        Args:
            text: What to draw.
            cfg_weight: Weight of CFG; 0 and 1 need no negative text.
            negative_text: Encoded as well if `cfg_weight` needs it.

        Returns:
            The text, which unpacks as DiffusionKit's pair `conditioning, pooled_conditioning`.

        Raises:
            InputError: if a text is no string, or the weight no such number.
        """
        checks.text("the text", text)
        checks.number("cfg_weight", cfg_weight, low=0)
        negative = None if cfg_weight in (0, 1) else self.encode_text(negative_text)
        embedding = self._encode(text)
        return embedding if negative is None else replace(embedding, negative=negative)

    def velocity(
        self,
        latents: mx.array,
        sigma: float,
        text: TextEmbedding,
        guidance: float | None = None,
        negative: TextEmbedding | None = None,
        cfg_weight: float = 0.0,
        attend: Attend = attention,
        without: frozenset[int] = frozenset(),
        adapters: tuple[Use, ...] | None = None,
    ) -> mx.array:
        """Returns the direction from picture to noise at `latents`, not evaluated.

        Args:
            latents: (1, H, W, C).
            sigma: Noise level, 0..1.
            text: What to draw.
            guidance: Guidance strength if the network takes one.
            negative: Text that CFG leads away from by a second pass; None for one pass.
            cfg_weight: How far.
            attend: Attention of the first pass; the second keeps the default.
            without: Numbers of blocks that the first pass leaves out; the second has them all.
            adapters: Of both passes; None for those of the pipeline.

        Returns:
            (1, H, W, C), float32.
        """
        network = self.transformer(adapters)
        positive = self._pass(mmdit.without(network, without), latents, sigma, text, guidance, attend)
        if negative is None:
            return positive
        with backend.beside(self.networks.configs.mmdit.width):
            other = self._pass(network, latents, sigma, negative, guidance, attention)
        return other + cfg_weight * (positive - other)

    def _pass(self, network, latents, sigma, text, guidance, attend) -> mx.array:
        """Runs a transformer once."""
        size = latents.shape[1:3]
        velocity = network(
            flow.pack(latents).astype(self.networks.dtype),
            text.txt,
            text.vec,
            mx.array([sigma]),
            None if guidance is None else mx.array([guidance]),
            img_ids=flow.image_ids(size),
            txt_ids=mx.zeros((text.txt.shape[1], 3)),
            attend=attend,
        )
        return flow.unpack(velocity, size).astype(mx.float32)

    def velocity_at(
        self,
        index: int,
        latents: mx.array,
        sigma: float,
        settings: Settings,
        text: TextEmbedding,
        negative: TextEmbedding | None,
        attend: Attend | None = None,
        hear: Callable[[Attend], Attend] | None = None,
    ) -> mx.array:
        """Returns the velocity that step `index` of a run takes or would take, not evaluated.

        Args:
            index: Number of the step, for the intervention if there is one.
            latents: (1, H, W, C).
            sigma: Noise level, 0..1.
            settings: Of the run.
            text: What to draw.
            negative: Text that CFG leads away from, None for one pass.
            attend: Attention of the pass with the prompt, in place of the settings' intervention.
            hear: Puts a listener around it.
        """
        without = frozenset()
        if attend is None and settings.intervention is not None:
            config = self.networks.configs.mmdit
            attend, without = settings.intervention.at(index, tokens(text, latents.shape[1:3]), config)
        attend = attend or attention
        cfg = settings.guidance, negative, settings.cfg_weight
        attend = hear(attend) if hear else attend
        return self.velocity(latents, sigma, text, *cfg, attend, without, settings.adapters)

    def step(
        self,
        index: int,
        latents: mx.array,
        settings: Settings,
        text: TextEmbedding,
        negative: TextEmbedding | None,
        hear: Callable[[Attend], Attend] | None = None,
    ) -> Step:
        """Makes step `index` of a run from the latents before it, evaluated; `hear`: see `velocity_at`.

        Ctrl-C ends it, wherever in it that comes.
        """
        start = time.perf_counter()
        sigma, sigma_next = settings.sigmas[index : index + 2]
        with interrupts.kept():
            velocity = self.velocity_at(index, latents, sigma, settings, text, negative, hear=hear)
            mx.eval(velocity)
        return Step(index, sigma, sigma_next, latents, velocity, time.perf_counter() - start)

    def noise(self, settings: Settings) -> mx.array:
        """Returns the noise of a run: (1, H, W, C), evaluated.

        A run from a picture takes the second array of its seed, since diffusers samples the picture's latents
        with the first.
        """
        channels = self.networks.configs.vae.latent_channels
        draw = 0 if settings.image is None else 1
        return flow.noise(settings.seed, settings.latent_size, channels, draw)

    def first_latents(self, settings: Settings, source: Source | None = None) -> mx.array:
        """Returns what a run starts from, noise or a picture in noise: (1, H, W, C), evaluated.

        Raises:
            InputError: if it starts from another picture than `source`, or memory does not suffice.
        """
        memory.check(self.networks, settings.latent_size)
        digest = None if source is None else source.digest
        if digest != settings.image:
            if settings.image is None:
                raise InputError("the run starts from noise, but a picture is given; leave source out")
            raise InputError(
                f"the run starts from the picture with SHA-256 {settings.image}, and that which is given has "
                f"{digest}; give the same one, see fluxnb.source"
            )
        noise = self.noise(settings)
        if source is None:
            return noise
        clean = self.encode(source, settings.latent_size, settings.seed)
        latents = flow.add_noise(clean, noise, settings.sigmas[0])
        mx.eval(latents)
        return latents

    def generate_image(
        self,
        text: str,
        num_steps: int | None = None,
        cfg_weight: float | None = None,
        negative_text: str = "",
        latent_size: tuple[int, int] | None = None,
        seed: int | None = 0,
        verbose: bool = False,
        image_path: object = None,
        denoise: float = 1.0,
        *,
        guidance: float | None = None,
        shift: float | None = None,
    ) -> tuple[Image.Image, dict]:
        """Draws a picture from a prompt.

        Args:
            text: The prompt.
            num_steps: 1 to 1000; None, here and below, for the model's own.
            cfg_weight: At least 0; 0 switches CFG off.
            negative_text: What CFG leads away from.
            latent_size: (H, W) in latent cells of 8 pixels, even; None for that of the picture it starts from
                (`Source.latent_size`) or else the model's.
            seed: Of the noise; None draws one, which the log then tells.
            verbose: Whether to show a progress bar.
            image_path: Picture to start from: a path, a Pillow image or an array, see `fluxnb.source.read`.
            denoise: How much of it to draw anew, above 0 and at most 1, where nothing of it is left. The
                steps are those of diffusers' `strength` (`flow.skipped_steps`); DiffusionKit leaves out
                int(num_steps * (1 - denoise)), one less where that product falls short of a whole number.
            guidance: Guidance strength, for a model that takes one.
            shift: Static shift of the schedule.

        Returns:
            The picture, and a log, see `draw`.

        Raises:
            InputError: if an argument is none that can be drawn with.
        """
        source = None if image_path is None else read(image_path)
        settings = fill_in(
            self.entry,
            text,
            seed=seed,
            num_steps=num_steps,
            shift=shift,
            guidance=guidance,
            cfg_weight=cfg_weight,
            negative_text=negative_text,
            latent_size=latent_size,
            image=source,
            denoise=denoise,
            adapters=self.adapters,
        )
        warn_of_no_effect(self.entry, settings, guidance, negative_text, denoise)
        return draw(self, settings, source, verbose)

    def draw(
        self, settings: Settings, source: Source | None = None, verbose: bool = False
    ) -> tuple[Image.Image, dict]:
        """Draws a picture from its complete settings, e.g. those of a recipe.

        Args:
            settings: All that decides the picture.
            source: The picture that it starts from, if `settings.image` says that there is one.
            verbose: Whether to show a progress bar.

        Returns:
            The picture, and a log with DiffusionKit's keys: for "text_encoding", "denoising" and "decoding"
            the "time" in seconds and the memory in GB "pre" and "post"; "peak_memory", "total_time"; and with
            the "seed", "width" and "height" in pixels, and the "recipe" (`fluxnb.recipe`).

        Raises:
            InputError: if it starts from another picture than `source`, or is no recipe's, see
                `recipe.write_down`.
        """
        return draw(self, settings, source, verbose)
