"""Colour: from ICC profiles and code points to sRGB."""
