"""The networks of FLUX.1: arrays in, arrays out; they know nothing of files, prompts, steps or pictures.

    config.py      one frozen dataclass per network, and the sizes of FLUX.1 as functions
    layers.py      linear, convolution, norms, RoPE, modulation, the two kinds of block, attention
    mmdit.py       img, txt, vec, t -> velocity
    t5.py clip.py  ids -> txt, ids -> vec
    vae.py         latents <-> pixels
    strips.py      the same in strips of rows, for large pictures
    taesd.py       latents <-> pixels, nearly, in a hundredth of the work
    tokenizers.py  text -> ids, ids -> words; needs no MLX
    spiece.py      T5's vocabulary in SentencePiece's own file

The letters in comments on shapes:

    B      batch
    L      sequence length in tokens (in an attention: text and image tokens together, text first)
    D      width of a stream (in an attention: width of one head)
    H, W   latent cells, 8 pixels a side (in an attention, H is the number of heads)
    h, w   image tokens, 16 pixels a side: h = H / 2
    C      channels

Parameters bear the names of black-forest-labs' files (`double_blocks.0.img_attn.qkv.weight`) and, for the
text encoders, of the Hugging Face files, CLIP's without their first word `text_model.`. Linear weights are
(out, in); convolutions are (out, kh, kw, in), while files have (out, in, kh, kw). A network is born with
zeros that occupy no memory until they are used; a checkpoint or `layers.random_weights` fills it. Its caller
chooses the dtype that it computes in, whatever the dtype of its weights: by that of `img` or of the picture,
or by the argument `dtype` of the text encoders.
"""
