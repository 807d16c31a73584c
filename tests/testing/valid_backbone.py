"""A backbone that satisfies its contract, in a module that other processes can import, and without importing torch."""

from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.blocks import blocks_from_groups
from autotl.backbones.weights import file_digest, read_tensors


def network():
    from torch import nn

    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class ValidBackbone(Backbone):
    name, pretrained_on, license, is_cached = "valid", "noise", "Apache-2.0", True
    num_params, num_features = 8 * 28 + 16 + 12 * 73, 12
    preprocessing = Preprocessing(32, 0.9, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def __init__(self, file):
        self.file = file

    def weights_file(self):
        return self.file

    @property
    def digest(self):
        return file_digest(self.weights_file())

    def build(self, *, pretrained=True):
        module = network()
        if pretrained:
            module.load_state_dict(read_tensors(self.weights_file()))
        return module.eval()

    def blocks(self, module):
        return blocks_from_groups(module, lambda parameter: int(parameter.split(".")[0]))
