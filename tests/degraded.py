"""Photos with a known fault."""

from __future__ import annotations

import cv2
import numpy as np


def blurred(rgb: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), radius), np.uint8)


def noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    values = rgb + np.random.default_rng(0).normal(0, sigma, rgb.shape)
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def rgb_of_gray(gray: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.round(gray), 0, 255).astype(np.uint8)[..., None], 3, 2)
