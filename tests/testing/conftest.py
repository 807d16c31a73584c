"""How the kit's tests run its checks."""

import pytest
import torch

from autotl.testing import CHECKS, ContractViolation


@pytest.fixture(scope="session")
def violations():
    """`violations(component_type, component, **options)`: run all checks. A dict from the names of violated checks to
    their `got`."""

    def run(component_type, component, **options):
        violated = {}
        for check in CHECKS[component_type]:
            try:
                check(component, **options)
            except ContractViolation as error:
                line = next(line for line in str(error).splitlines() if line.startswith("  got:"))
                violated[check.name] = line.partition(":")[2].strip()
            except pytest.skip.Exception:
                pass
        return violated

    return run


@pytest.fixture(scope="session")
def violation():
    """`violation(component_type, name, component)`: run one check. Its `got`, or None if it isn't violated."""

    def run(component_type, name, component):
        (check,) = (check for check in CHECKS[component_type] if check.name == name)
        try:
            check(component)
        except ContractViolation as error:
            line = next(line for line in str(error).splitlines() if line.startswith("  got:"))
            return line.partition(":")[2].strip()
        return None

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with weights of the valid backbone."""
    from safetensors.torch import save_file
    from torch import nn

    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()),
    )
    file = tmp_path_factory.mktemp("weights") / "valid.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        save_file(network.state_dict(), file)
    return file
