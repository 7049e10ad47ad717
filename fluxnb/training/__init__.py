"""How the demo checkpoint came to be: scenes, networks, training, judging. Nothing imports it.

Needs the extra `train` (torch, diffusers). Stages, all under one output folder; a stopped one goes on
where it was, but for the judge, which starts anew:

    tokenizers   both vocabularies, from captions
    vae          encoder and decoder together, then the decoder alone on frozen latents
    text         both text encoders, on captions alone
    latents      scenes encoded once
    transformer  MMDiT on the latents, text encoders as they are
    export       the checkpoint in the diffusers folder layout
    preview      a linear fit from latents to colours
    judge        a classifier of real scenes
    sheets       pictures of fixed prompts, and scenes beside autoencoded ones
    curves       the logs of all stages as curves
    evaluate     all goals: what the judge says of generated pictures, sizes, speed, maps

`python -m fluxnb.training.train` runs them in order, all but the last.
"""
