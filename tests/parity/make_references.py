"""Writes tests/data/references.npz: what the references give for the cases of tests/references.py.

    PYTHONPATH=tests python tests/parity/make_references.py

With it, plain pytest compares with the references without torch. Run it again only when a case changes.
"""

import json

import numpy as np
import references
from parity import torch_networks


def main() -> None:
    """Computes every case and writes one file."""
    arrays = {}
    for case in (*references.MMDIT, *references.T5, *references.CLIP, *references.VAES):
        network = torch_networks.build(case)
        arrays[f"{case.name}/shapes"] = np.array(json.dumps(torch_networks.shapes(network)))
        for name, value in torch_networks.outputs(case, network).items():
            arrays[f"{case.name}/{name}"] = value
    np.savez_compressed(references.DATA / "references.npz", **arrays)


if __name__ == "__main__":
    main()
