"""Names to files to one parameter tree; knows nothing of prompts, steps or pictures.

    catalog.py   what can be loaded by name, and what a model wants by default
    configs.py   the config.json of each component -> the frozen configs of fluxnb.model
    parts.py     where the parts of a model lie on this disk, whatever their layout
    kinds.py     which component in which layout some tensors are, told from their names
    layouts.py   one table of rules per layout: names in files -> names of parameters
    files.py     safetensors files of a component -> lazy arrays, or one sentence on what is wrong with them
    taesd.py     a tiny autoencoder for a quick look
    linear.py    a linear fit for a quicker one
    store.py     load(): all of it together

The parameters bear the names that `fluxnb.model` tells of, whatever the layout of the files.
"""
