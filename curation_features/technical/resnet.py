"""Fold batch normalisations into the convolutions before them, which saves a CPU a pass over memory for each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch.nn import BatchNorm2d, Conv2d
from torch.nn.utils import fuse_conv_bn_eval


def fold_batch_norms(module: torch.nn.Module) -> None:
    """Fold every pair of a convolution and its normalisation of a CLIP ResNet, in place.

    Results differ by rounding only: in inference a normalisation is a fixed linear map (S. Ioffe and C. Szegedy, "Batch
    Normalization", ICML 2015, section 3.1).

    Args:
        module: in evaluation mode; pairs are `convN` and `bnN`, or neighbours in a `Sequential`.
    """
    for conv, norm in list(_pairs(module)):
        convolution, normalisation = getattr(module, conv), getattr(module, norm)
        setattr(module, conv, fuse_conv_bn_eval(convolution, normalisation))
        setattr(module, norm, torch.nn.Identity())
    for child in module.children():
        fold_batch_norms(child)


def _pairs(module: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the convolutions of a module, each with that of its normalisation."""
    names = [name for name, _ in module.named_children()]
    follows = dict(pairwise(names)) if isinstance(module, torch.nn.Sequential) else {}
    for name in names:
        norm = follows.get(name, name.replace("conv", "bn"))
        if isinstance(getattr(module, name), Conv2d) and isinstance(getattr(module, norm, None), BatchNorm2d):
            yield name, norm
