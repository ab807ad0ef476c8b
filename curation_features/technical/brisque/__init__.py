"""BRISQUE: no-reference image quality from natural scene statistics, equal to piq."""
