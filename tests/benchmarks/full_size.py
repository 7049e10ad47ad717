"""Measures what FLUX.1-schnell takes at full size: `python tests/benchmarks/full_size.py FOLDER [bits]`.

In an empty folder it writes the model as diffusers lays it out, in bfloat16 (34 GB), and deletes it at the
end. Its weights are one random block over and over, scaled to the width of each matrix, and its tokenizers
are those of the tests, so that it draws nothing. Each line is a process, which quantises while it loads:

    t5        load T5-XXL, encode 256 tokens
    mmdit     load the transformer, make one pass at 256 x 256 pixels
    picture   low memory mode: prompt to picture at 256 x 256 pixels in one step, all four networks

Printed are the bytes of the weights (of picture: of its larger side), the goal (1.15 times these and 1.5 GB),
the peak of MLX's memory and of the process (VmHWM: with MLX's cache of freed memory, up to 2 GiB, and all
libraries), and seconds. It takes about 11 GB of memory at 4 bits and some minutes; it is no part of pytest.

On 2 cores of an AMD EPYC that others used as well, with one BLAS thread (OPENBLAS_NUM_THREADS=1), at 4 bits:

           weights    goal  MLX peak   VmHWM   load s  compute s
    t5        2.87    4.80      3.12    3.79       58        477
    mmdit     6.77    9.29      7.01    9.15       92        162
    picture   6.94    9.48      8.29   10.73        -        511

What picture takes beyond mmdit is the autoencoder, which decodes 256 x 256 pixels in one piece.
"""

import json
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import full_size
import tiny_checkpoint as tiny

BLOCK = 2**24  # random numbers that the weights are made of
CELLS, TOKENS = (32, 32), 256
CONFIGS = {
    "transformer": {
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "num_layers": 19,
        "num_single_layers": 38,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "eos_token_id": 3,
    },
    "text_encoder_2": {
        "vocab_size": 32128,
        "d_model": 4096,
        "num_heads": 64,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
    },
}
KEYS = {
    "transformer": "diffusers-dev",
    "vae": "diffusers-vae",
    "text_encoder": "hub-clip",
    "text_encoder_2": "hub-t5xxl",
}


def bf16(numbers):
    """Rounds float32 to bfloat16, as bytes."""
    numbers = np.ascontiguousarray(numbers, np.float32)
    return ((numbers.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes()


def write_weights(path, shapes):
    """Writes tensors of these shapes: matrices and kernels of variance 1 / inputs, norms 1, biases 0."""
    random = np.random.default_rng(0).standard_normal(BLOCK, np.float32)
    block = cache(lambda inputs: bf16(random * inputs**-0.5))
    head, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            if len(shape) == 1:
                file.write(bf16(np.full(count, 0.0 if name.endswith("bias") else 1.0)))
                continue
            while count:
                file.write(block(int(np.prod(shape[1:])))[: 2 * count])
                count -= min(count, BLOCK)


def write(folder):
    """Writes the model."""
    for part, settings in CONFIGS.items():
        (folder / part).mkdir(parents=True)
        tiny.save_json(folder / part / "config.json", tiny.CONFIGS[part] | settings)
        shapes = full_size.unguided(full_size.released(KEYS[part]))
        write_weights(folder / part / tiny.WEIGHTS[part], shapes)
    tiny.write_clip_tokenizer(folder / "tokenizer")
    tiny.write_t5_tokenizer(folder / "tokenizer_2")
    tiny.change(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=TOKENS)
    (folder / "scheduler").mkdir()
    tiny.save_json(folder / "scheduler" / "scheduler_config.json", tiny.SCHEDULER)


def measure(what, folder, bits):
    """Loads and computes; prints figures as JSON."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from fluxnb import flow
    from fluxnb.checkpoints import store
    from fluxnb.pipeline import FluxPipeline

    def nbytes(*networks):
        return sum(array.nbytes for network in networks for _, array in tree_flatten(network.parameters()))

    start = time.perf_counter()
    networks = store.load(local_ckpt=folder, quantize=bits, low_memory_mode=True)  # reads when it is used
    if what == "t5":
        network = networks.t5
        loaded = time.perf_counter()
        mx.eval(network(mx.zeros((1, TOKENS), mx.int32)))
        weights = nbytes(network)
    elif what == "mmdit":
        network = networks.mmdit
        loaded = time.perf_counter()
        img, txt = flow.pack(flow.noise(0, CELLS)), mx.ones((1, TOKENS, 4096))
        ids = {"img_ids": flow.image_ids(CELLS), "txt_ids": mx.zeros((TOKENS, 3))}
        velocity = network(img, txt, mx.ones((1, 768)), mx.array([1.0]), **ids)
        assert mx.all(mx.isfinite(velocity)).item()
        weights = nbytes(network)
    else:
        loaded = start
        FluxPipeline.from_networks(networks).generate_image("a cat", num_steps=1, latent_size=CELLS)
        weights = nbytes(networks.mmdit, networks.vae)
    now = time.perf_counter()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps([weights, mx.get_peak_memory(), peak, loaded - start, now - loaded]))


def main(folder, bits):
    """Writes the model, measures in processes of their own, and cleans up."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; give a new folder on a disk with 34 GB to spare")
    try:
        start = time.perf_counter()
        write(folder)
        print(f"written in {time.perf_counter() - start:.0f} s; {bits} bits, sizes in GB (1e9 bytes)\n")
        print(f"{'':10}{'weights':>10}{'goal':>8}{'MLX peak':>10}{'VmHWM':>8}{'load s':>9}{'compute s':>11}")
        for what in ("t5", "mmdit", "picture"):
            command = [sys.executable, __file__, "--measure", what, str(folder), str(bits)]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            weights, mlx, process, load, compute = json.loads(text.splitlines()[-1])
            sizes = [weights / 1e9, 1.15 * weights / 1e9 + 1.5, mlx / 1e9, process / 1e9]
            print(f"{what:10}{sizes[0]:10.2f}{sizes[1]:8.2f}{sizes[2]:10.2f}{sizes[3]:8.2f}", end="")
            print(f"{load:9.0f}{compute:11.0f}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
