"""A sound model folder for the cases of hostile ones, under today's names; and the digests of a forged one."""

import sys
from pathlib import Path

from common import HERE

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "model"))
from forging import seal

__all__ = ["seal", "small_model"]


def small_model(folder, head="logistic_regression", local_dir=False):
    """A sound model folder of one member on a tiny network with random weights. Returns the number of features."""
    import numpy as np
    import timm
    import torch
    from safetensors.torch import save_file

    from autotl.backbones.graph_split import FeatureLevels, GraphSplit
    from autotl.backbones.timm import TimmBackbone
    from autotl.model.image_model import ImageModel
    from autotl.model.member import Member
    from autotl.recipe import Recipe
    from autotl.registry import load_registry
    from autotl.strategies.base import Fitted

    torch.set_num_threads(1)  # a pool of threads would be missing in a forked child
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    if local_dir:
        place = HERE / "network"
        timm.models.save_for_hf(network, place, model_config={"num_classes": 3})
        backbone = TimmBackbone(f"local-dir:{place}")
    else:
        save_file(network.state_dict(), HERE / "w.safetensors")
        backbone = TimmBackbone(f"test_resnet@{HERE / 'w.safetensors'}")
    module = backbone.build()
    layout = FeatureLevels(GraphSplit(module, backbone.blocks(module))).layout(backbone.preprocessing.size)
    width = layout.output
    registry = load_registry(without=["engines.openvino"])
    spec = registry.head(head)
    rng = np.random.default_rng(0)
    fitted = spec.build(spec.defaults(), width, 2, 0)
    if spec.type == "estimator":
        fitted.fit(rng.standard_normal((40, width)).astype(np.float32), np.arange(40) % 2)
    recipe = Recipe(backbone.name, "fast_extraction", head, 1, {}, dict(spec.defaults()))
    member = Member(recipe, Fitted("last", fitted), backbone.digest, 2, trial=0)
    ImageModel(("ants", "bees"), [member], {backbone.digest: backbone}, registry=registry).save(folder)
    return width
