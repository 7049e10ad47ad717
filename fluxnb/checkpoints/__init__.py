"""Names to files to one parameter tree; knows nothing of prompts, steps or pictures.

    catalog.py   what can be loaded by name, where it lies, and what a model wants by default
    places.py    where components lie on the hub, and which files of a repository each needs
    sources.py   what a caller named -> an entry and the parts of a model on this disk
    hub.py       from the hub to huggingface_hub's cache, as far as it is not there
    troubles.py  what can stand between the hub and this disk, in one sentence each
    parts.py     where the parts of a model lie on this disk, whatever their layout
    files.py     safetensors files of a component -> lazy arrays, or one sentence on what is wrong with them
    kinds.py     which component in which layout some tensors are, told from their names
    layouts.py   what a rule is: names in files -> name of a parameter
    tables.py    one table of rules per layout
    configs.py   the config.json of each component -> the frozen configs of fluxnb.model
    sizes.py     shapes of parameters -> the frozen configs, where there is no config.json
    components.py  all of this for one part: config, table, tensors
    quantised.py matrices of few bits: told from floats, made, stacked, undone
    fill.py      tensors of a component -> its network, one after the other
    networks.py  the four networks, all in memory or only those in use
    native.py    our own layout: save and read again, bit for bit
    store.py     load(): all of it together
    footprint.py what a model takes on the disk and in memory
    taesd.py     a tiny autoencoder for a quick look
    linear.py    a linear fit for a quicker one

The parameters bear the names that `fluxnb.model` tells of, whatever the layout of the files.
"""
