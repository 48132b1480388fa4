"""The Deep Rendering Mixture Model: convnets as exact max-sum inference in a picture-rendering model."""

import lazy_loader

__version__ = "0.1.0"

# Names and where they live stand in `__init__.pyi`; each is imported when it is first asked for, so that
# `drmm --help` does not wait for torch.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]  # noqa: PLE0604  (names are strings)
