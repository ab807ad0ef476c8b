"""Build `curation_features/weights/bundled/brisque.npz` from the text files of LIVE's release.

python tools/brisque_regressor.py FOLDER            # with allmodel and allrange; prints the SHA-256

`allmodel` is an SVM of libsvm. Its numbers have at most six digits and are rounded to float32, as in the file that piq
publishes: scores do not change. The same text gives the same bytes on every machine, without compression.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curation_features.technical.brisque.index import FEATURES, GAMMA, RHO, SUPPORT_VECTORS

TARGET = Path(__file__).resolve().parents[1] / "curation_features" / "weights" / "bundled" / "brisque.npz"
HEADER = {
    "svm_type": "epsilon_svr",
    "kernel_type": "rbf",
    "gamma": str(GAMMA),
    "nr_class": "2",
    "total_sv": str(SUPPORT_VECTORS),
    "rho": str(RHO),
}
"""Lines of `allmodel` that `Brisque` depends on."""


def build(allmodel: str, allrange: str) -> bytes:
    """Return the npz file with `sv_coef` (774, 1) and `sv` (774, 36), float32.

    Raises ValueError if the text does not fit the constants of `technical.brisque`, or piq's scaling of features.
    """
    check_scaling(allrange)
    sv_coef, sv = parse_model(allmodel)
    return npz(sv_coef=sv_coef.astype("<f4"), sv=sv.astype("<f4"))


def parse_model(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the coefficients (774, 1) and support vectors (774, 36) of a libsvm model; features left out are 0."""
    head, _, body = text.partition("SV\n")
    header = dict(line.split(maxsplit=1) for line in head.splitlines())
    for name, expected in HEADER.items():
        if header.get(name) != expected:
            raise ValueError(f"allmodel: {name} is {header.get(name)} instead of {expected}")
    rows = [line.split() for line in body.splitlines() if line.strip()]
    if len(rows) != SUPPORT_VECTORS:
        raise ValueError(f"allmodel has {len(rows)} support vectors instead of {SUPPORT_VECTORS}")
    sv = np.zeros((SUPPORT_VECTORS, FEATURES))
    for vector, (_, *entries) in zip(sv, rows, strict=True):
        for entry in entries:
            number, value = entry.split(":")
            if not 1 <= int(number) <= FEATURES:
                raise ValueError(f"allmodel has a feature {number}; there are {FEATURES}")
            vector[int(number) - 1] = float(value)
    return np.array([[float(row[0])] for row in rows]), sv


def check_scaling(text: str) -> None:
    """Raise ValueError unless piq maps each range of `allrange` to [-1, 1]."""
    kind, limits, *lines = text.splitlines()
    ranges = np.array([line.split()[1:] for line in lines if line.strip()], np.float64)
    scale = importlib.import_module("piq.brisque")._scale_features
    if (kind, limits.split(), ranges.shape) != ("x", ["-1", "1"], (FEATURES, 2)) or any(
        (scale(torch.from_numpy(ends)[None]) != end).any() for ends, end in zip(ranges.T.copy(), (-1, 1), strict=True)
    ):
        raise ValueError("allrange is not the scaling of piq")


def npz(**arrays: NDArray[np.float32]) -> bytes:
    """Return an npz file that is independent of time, system and compression library."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return data.getvalue()


def main() -> None:
    """Write the file."""
    folder = Path(sys.argv[1])
    data = build(*((folder / name).read_text(encoding="ascii") for name in ("allmodel", "allrange")))
    TARGET.write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), TARGET)


if __name__ == "__main__":
    main()
