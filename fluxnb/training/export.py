"""Write the demo checkpoint of a training run in the diffusers folder layout.

python -m fluxnb.training.export --out RUN --to fluxnb/demo
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from fluxnb.training import vocabulary
from fluxnb.training.captions import load_tokenizers
from fluxnb.training.networks import TextEncoders, build_transformer, build_vae, save_folder
from fluxnb.training.optim import load_checkpoint
from fluxnb.training.vae import load_average


def export(out: Path, to: Path) -> None:
    """Write running averages of RUN's autoencoder and transformer as one checkpoint folder.

    The autoencoder is that of RUN/decoder.pt, or of RUN/vae.pt if its decoder was not trained further.

    The latents' mean and spread become the VAE's shift and scaling factor, so that every loader
    of the layout applies them.
    """
    state = load_checkpoint(out / "transformer.pt")
    mean, spread = state["scale"]
    vae = build_vae(scaling_factor=1 / spread, shift_factor=mean)
    further = out / "decoder.pt"
    vae.load_state_dict(load_average(further if further.exists() else out / "vae.pt"))
    clip_tokenizer, t5_tokenizer = load_tokenizers(out)
    encoders = TextEncoders(clip_tokenizer, t5_tokenizer)
    encoders.load_state_dict(load_checkpoint(out / "text.pt")["net"])
    transformer = build_transformer()
    transformer.load_state_dict(state["ema"])
    save_folder(to, vae, transformer, encoders, clip_tokenizer, t5_tokenizer)
    # transformers 5 rewrites both tokenizers in its own way; ours load in older versions too
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(to / name)
        shutil.copytree(out / name, to / name)
    vocabulary.write(to)
    index = to / "model_index.json"
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    export(args.out, args.to)


if __name__ == "__main__":
    main()
