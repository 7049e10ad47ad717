"""One process of `peers.py`: builds its peers when asked, and does one named task at a time when asked.

    python peer_worker.py mlx FOLDER [mlx-examples clone]       fluxnb, mlx-examples, mflux
    python peer_worker.py torch FOLDER                          diffusers

A line of JSON comes in, [peer, task], and one goes out: seconds on the clock and of all threads' CPU time, or
why it cannot be done. The
last output of each is left in FOLDER as peer.task.npy. All MLX peers are in one process: they share the
weights, the BLAS under MLX and its threads, and only fluxnb's are those of FOLDER/weights.safetensors, which
the process of torch maps.
"""

import gc
import importlib
import json
import sys
import time
import types
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

HEADS, HEAD_DIM, DOUBLE, SINGLE = 24, 128, 1, 2
SIDE, TEXT = 16, 256  # image tokens a side, text tokens
SIGMA = 0.75
PROMPT, STEPS, CFG = "a photo of a cat on a blue background", 20, 3.0
DEMO = Path(__file__).parents[2] / "fluxnb" / "demo"
LEFT_OUT = (  # blocks of the released file that a network of so few lacks
    *(f"transformer_blocks.{i}." for i in range(DOUBLE, 19)),
    *(f"single_transformer_blocks.{i}." for i in range(SINGLE, 38)),
)


def given() -> dict[str, np.ndarray]:
    """Gives what goes into the blocks: img, txt, vec."""
    random = np.random.default_rng(0)
    shapes = {"img": (1, SIDE * SIDE, 64), "txt": (1, TEXT, 4096), "vec": (1, 768)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def demo_given() -> dict[str, np.ndarray]:
    """Gives what goes into one pass of the demo model's transformer."""
    random = np.random.default_rng(0)
    shapes = {"img": (1, 64, 64), "txt": (1, 24, 128), "vec": (1, 128)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


class Mlx:
    """fluxnb, mlx-examples and mflux, all on MLX."""

    def __init__(self, folder: Path, clone: Path | None):
        """Makes MLX ready; networks are built when first asked for."""
        import mlx.core as mx

        from fluxnb import backend

        self.mx, self.backend, self.folder, self.clone = mx, backend, folder, clone
        backend.setup()
        self.pipeline = None

    def versions(self) -> str:
        """Says what computes."""
        return self.backend.describe()

    def prepare(self) -> None:
        """Builds fluxnb's blocks with random weights, and writes them under diffusers' names."""
        from full_size import released
        from mlx.utils import tree_flatten

        from fluxnb.checkpoints import layouts, tables
        from fluxnb.model.config import MMDiTConfig
        from fluxnb.model.layers import random_weights
        from fluxnb.model.mmdit import MMDiT

        self.network = random_weights(MMDiT(MMDiTConfig(depth=DOUBLE, depth_single=SINGLE)), seed=0)
        self.weights = dict(tree_flatten(self.network.parameters()))
        self.mx.eval(self.weights)
        shapes = {
            name: shape
            for name, shape in released("diffusers-dev").items()
            if "guidance" not in name and not name.startswith(LEFT_OUT)
        }
        self.theirs = {}
        for part in layouts.plan(tables.DIFFUSERS_MMDIT, self.weights, shapes, "diffusers"):
            array = self.weights[part.target]
            if part.transform is layouts.swap_halves:
                array = layouts.swap_halves(array)
            rows = np.cumsum([shapes[name][0] for name in part.sources])[:-1].tolist()
            self.theirs |= zip(part.sources, self.mx.split(array, rows), strict=True)
        self.mx.save_safetensors(str(self.folder / "weights.safetensors"), self.theirs)
        self.inputs = {name: self.mx.array(value) for name, value in given().items()}
        ids = np.stack(np.broadcast_arrays(0, *np.mgrid[:SIDE, :SIDE]), axis=-1).reshape(-1, 3)
        self.img_ids = self.mx.array(ids.astype(np.float32))

    def fluxnb_blocks(self):
        """Returns fluxnb's forward pass."""
        mx = self.mx
        return lambda: self.network(
            **self.inputs, t=mx.array([SIGMA]), img_ids=self.img_ids, txt_ids=mx.zeros((TEXT, 3))
        )

    def mlx_examples_blocks(self):
        """Returns that of mlx-examples; of its package only the network is imported."""
        if self.clone is None:
            raise ImportError("no clone of ml-explore/mlx-examples given")
        package = types.ModuleType("mlx_examples_flux")
        package.__path__ = [str(self.clone / "flux" / "flux")]
        sys.modules[package.__name__] = package
        model = importlib.import_module("mlx_examples_flux.model")
        params = model.FluxParams(
            in_channels=64,
            vec_in_dim=768,
            context_in_dim=4096,
            hidden_size=HEADS * HEAD_DIM,
            mlp_ratio=4.0,
            num_heads=HEADS,
            depth=DOUBLE,
            depth_single_blocks=SINGLE,
            axes_dim=[16, 56, 56],
            theta=10_000,
            qkv_bias=True,
            guidance_embed=False,
        )
        network, mx, given = model.Flux(params), self.mx, self.inputs
        network.load_weights(list(network.sanitize(self.weights).items()))
        return lambda: network(
            img=given["img"],
            img_ids=self.img_ids[None],
            txt=given["txt"],
            txt_ids=mx.zeros((1, TEXT, 3)),
            timesteps=mx.array([SIGMA]),
            y=given["vec"],
        )

    def mflux_blocks(self):
        """Returns that of mflux, its precision set to float32."""
        transformer = importlib.import_module("mflux.models.flux.model.flux_transformer.transformer")
        transformer.ModelConfig.precision = self.mx.float32
        network = transformer.Transformer(transformer.ModelConfig.schnell(), DOUBLE, SINGLE)
        names = {
            name.replace("net.0.proj", "linear1").replace("net.2", "linear2"): array
            for name, array in self.theirs.items()
        }
        network.load_weights(list(names.items()))
        config = types.SimpleNamespace(
            scheduler=types.SimpleNamespace(sigmas=self.mx.array([SIGMA])),
            num_train_steps=1000,
            precision=self.mx.float32,
            guidance=0.0,
            height=16 * SIDE,
            width=16 * SIDE,
        )
        given = self.inputs
        return lambda: network(0, config, given["img"], given["txt"], given["vec"])

    def fluxnb_load(self):
        """Returns the loading of the demo model."""
        from fluxnb import FluxPipeline

        def load():
            self.pipeline = FluxPipeline()

        return load

    def fluxnb_forward(self):
        """Returns one pass of the demo model's transformer."""
        mx, network = self.mx, self.pipeline.networks.mmdit
        inputs = {name: mx.array(value) for name, value in demo_given().items()}
        ids = np.stack(np.broadcast_arrays(0, *np.mgrid[:8, :8]), axis=-1).reshape(-1, 3)
        img_ids = mx.array(ids.astype(np.float32))
        return lambda: network(**inputs, t=mx.array([SIGMA]), img_ids=img_ids, txt_ids=mx.zeros((24, 3)))

    def fluxnb_picture(self):
        """Returns the drawing of a picture from a prompt."""
        return lambda: np.asarray(
            self.pipeline.generate_image(PROMPT, num_steps=STEPS, cfg_weight=CFG, shift=1.0)[0], np.float32
        )

    def run(self, compute, task: str, peer: str):
        """Computes once; BLAS gets the threads that fluxnb gives it, peers keep their mx.compile."""
        self.backend.fit_threads(HEADS * HEAD_DIM if task == "blocks" else 192)
        (self.mx.disable_compile if peer == "fluxnb" else self.mx.enable_compile)()
        result = compute()
        if isinstance(result, self.mx.array):
            self.mx.eval(result)
        return result


class Torch:
    """diffusers on torch, with all the threads of this process."""

    def __init__(self, folder: Path):
        """Imports torch; networks are built when first asked for."""
        import diffusers
        import torch

        self.torch, self.diffusers, self.folder = torch, diffusers, folder
        torch.set_grad_enabled(False)
        self.pipeline = None

    def versions(self) -> str:
        """Says what computes."""
        versions = f"diffusers {self.diffusers.__version__}, torch {self.torch.__version__}"
        return f"{versions}, {self.torch.get_num_threads()} threads"

    def diffusers_blocks(self):
        """Returns diffusers' forward pass, on fluxnb's weights, mapped from their file."""
        from safetensors.torch import load_file

        torch = self.torch
        with torch.device("meta"):
            network = self.diffusers.FluxTransformer2DModel(
                num_layers=DOUBLE, num_single_layers=SINGLE, guidance_embeds=False
            )
        network.load_state_dict(load_file(self.folder / "weights.safetensors"), assign=True)
        network.pos_embed = type(network.pos_embed)(theta=10000, axes_dim=[16, 56, 56])
        return self._pass(network.eval(), given(), SIDE)

    def _pass(self, network, inputs, side):
        """Returns a forward pass of a transformer."""
        img, txt, vec = (self.torch.from_numpy(value) for value in inputs.values())
        ids = np.stack(np.broadcast_arrays(0, *np.mgrid[:side, :side]), axis=-1).reshape(-1, 3)
        img_ids = self.torch.from_numpy(ids.astype(np.float32))
        return lambda: (
            network(
                hidden_states=img,
                encoder_hidden_states=txt,
                pooled_projections=vec,
                timestep=self.torch.tensor([SIGMA]),
                img_ids=img_ids,
                txt_ids=self.torch.zeros(txt.shape[1], 3),
            ).sample
        )

    def diffusers_load(self):
        """Returns the loading of the demo model."""

        def load():
            pipeline = self.diffusers.FluxPipeline.from_pretrained(DEMO, torch_dtype=self.torch.float32)
            pipeline.set_progress_bar_config(disable=True)
            self.pipeline = pipeline

        return load

    def diffusers_forward(self):
        """Returns one pass of the demo model's transformer."""
        return self._pass(self.pipeline.transformer, demo_given(), 8)

    def diffusers_picture(self):
        """Returns the drawing of a picture from a prompt."""
        torch = self.torch
        return lambda: np.asarray(
            self.pipeline(
                PROMPT,
                negative_prompt="",
                true_cfg_scale=CFG,
                num_inference_steps=STEPS,
                height=128,
                width=128,
                max_sequence_length=24,
                generator=torch.Generator().manual_seed(0),
            ).images[0],
            np.float32,
        )

    def run(self, compute, task: str, peer: str):
        """Computes once."""
        return compute()


def main() -> None:
    """Answers lines until there are no more."""
    kind, folder, *clone = sys.argv[1:]
    folder = Path(folder)
    worker = Torch(folder) if kind == "torch" else Mlx(folder, Path(clone[0]) if clone else None)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints does not get in between
    ready = {}
    for line in sys.stdin:
        peer, task = json.loads(line)
        try:
            if peer == "versions":
                answer = {"text": worker.versions()}
            elif peer == "prepare":
                answer = {"text": worker.prepare()}
            else:
                if (peer, task) not in ready:
                    ready[peer, task] = getattr(worker, f"{peer.replace('-', '_')}_{task}")()
                gc.collect()
                start, cpu = time.perf_counter(), time.process_time()
                result = worker.run(ready[peer, task], task, peer)
                answer = {"clock": time.perf_counter() - start, "cpu": time.process_time() - cpu}
                if result is not None:
                    np.save(folder / f"{peer}.{task}.npy", np.asarray(result))
        except Exception as error:  # a peer that cannot be run is left out with a word
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
