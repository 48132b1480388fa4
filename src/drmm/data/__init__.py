"""Images and labels from files: public sets by name, the user's own folders, and the splits of both."""

__all__ = [
    "NAMES",
    "UNLABELLED_FOLDER",
    "Dataset",
    "Skipped",
    "holdout",
    "load",
    "load_folder",
    "load_folder_splits",
    "mask_labels",
    "read_cifar10",
    "read_idx",
    "read_idx_pair",
    "read_svhn",
    "stratified_labels",
]

from drmm.data.base import Dataset, Skipped
from drmm.data.cifar import read_cifar10
from drmm.data.folders import UNLABELLED_FOLDER, load_folder, load_folder_splits
from drmm.data.idx import read_idx, read_idx_pair
from drmm.data.mat import read_svhn
from drmm.data.named import NAMES, load
from drmm.data.splits import holdout, mask_labels, stratified_labels
