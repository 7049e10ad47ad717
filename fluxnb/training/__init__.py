"""How the demo checkpoint came to be: scenes, networks, training, judging. Nothing imports it.

Needs the extra `train` (torch, diffusers). Stages, all under one output folder; a stopped one
goes on where it was, but for the judge, which takes minutes and starts anew:

    vae          encoder and decoder together, then the decoder alone on frozen latents
    latents      scenes encoded once
    transformer  MMDiT and both text encoders on the latents
    export       the checkpoint in the diffusers folder layout
    preview      a linear fit from latents to colours
    judge        a classifier of real scenes
    evaluate     what the judge says of generated pictures

`python -m fluxnb.training.train` runs them in order.
"""
