"""Make the folder of a run of a finished checkpoint, so that the transformer's training goes on from it.

    python -m fluxnb.training.unpack --model fluxnb/demo --out RUN

The inverse of `fluxnb.training.export`, but for what a finished checkpoint does not hold: optimisers
begin anew, steps count from 0 again, and weights are those of the running averages. Next come
`fluxnb.training.latents`, with seeds of its own, and `fluxnb.training.transformer`; text encoders and
autoencoder stay as they are, unless `fluxnb.training.text --heads-alone` lets the former learn on first.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from fluxnb.training.captions import load_tokenizers
from fluxnb.training.networks import TextEncoders
from fluxnb.training.optim import save_atomically


def unpack(model: Path, out: Path) -> None:
    """Write RUN's tokenizers, vae.pt, text.pt and transformer.pt from a checkpoint folder.

    Raises:
        FileExistsError: If RUN is not empty: files of another run would be taken for its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; take another folder for the run")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(model / name, out / name)
    encoders = TextEncoders(*load_tokenizers(out))
    encoders.t5.load_state_dict(T5EncoderModel.from_pretrained(model / "text_encoder_2").state_dict())
    encoders.clip.load_state_dict(CLIPTextModel.from_pretrained(model / "text_encoder").state_dict())
    begin = {"optimizer": None, "step": 0, "minutes": 0.0}
    save_atomically(out / "text.pt", begin | {"net": encoders.state_dict(), "heads": None})
    vae = AutoencoderKL.from_pretrained(model / "vae").float()
    save_atomically(out / "vae.pt", {"net": vae.state_dict(), "ema": vae.state_dict()})
    net = FluxTransformer2DModel.from_pretrained(model / "transformer").float().state_dict()
    scale = vae.config.shift_factor, 1 / vae.config.scaling_factor
    begin = {"net": net, "ema": net, "optimizers": None, "step": 0, "minutes": 0.0, "samples": 0}
    save_atomically(out / "transformer.pt", begin | {"scale": scale})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    args = parser.parse_args()
    try:
        unpack(args.model, args.out)
    except FileExistsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
