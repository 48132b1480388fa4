"""A run's model as one file that runs without us: pictures in, answers out, checked against PyTorch."""

from drmm.export.answering import EXTRAS, Answering
from drmm.export.files import ENDINGS, export

__all__ = ["ENDINGS", "EXTRAS", "Answering", "export"]
