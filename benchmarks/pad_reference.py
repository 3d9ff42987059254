"""Reference outputs of the published MiniFASNet pair, computed by PyTorch, for convert/pad_reference.json.

    python benchmarks/pad_reference.py CHECKOUT WEIGHTS

CHECKOUT: the source of minivision-ai/Silent-Face-Anti-Spoofing. WEIGHTS: a folder with the two .pth files. PyTorch is
needed (any version; CPU is enough) and is no dependency of the kiosk: use an environment of its own, in which only
NumPy is there besides, with the kiosk's folder in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from convert.pad_reference import REFERENCE, SEED, digest, synthetic_crops

# File and class; the published code reads both from the name.
NETWORKS = {"2.7_80x80_MiniFASNetV2.pth": "MiniFASNetV2", "4_0_0_80x80_MiniFASNetV1SE.pth": "MiniFASNetV1SE"}


def logits(checkout: Path, weights: Path, class_name: str, crops: np.ndarray) -> np.ndarray:
    torch = importlib.import_module("torch")
    torch.set_flush_denormal(True)
    sys.path.insert(0, str(checkout))
    network = getattr(importlib.import_module("src.model_lib.MiniFASNet"), class_name)(conv6_kernel=(5, 5))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    network.eval()
    with torch.no_grad():
        return network(torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())).numpy()


if __name__ == "__main__":
    checkout, weights = Path(sys.argv[1]), Path(sys.argv[2])
    crops = synthetic_crops()
    document = {
        "made_with": f"PyTorch {importlib.import_module('torch').__version__.split('+')[0]}, CPU, denormals flushed",
        "seed": SEED,
        "crops_sha256": digest(crops),
        "logits": {
            file: np.round(logits(checkout, weights / file, name, crops).astype(float), 6).tolist()
            for file, name in NETWORKS.items()
        },
    }
    REFERENCE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {REFERENCE}")
