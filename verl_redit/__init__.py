"""Plugins for verl: reward dithering (ReDit), with prompt pools (PAFT) and layer selection (Flexora) to follow."""

__version__ = "0.1.0"
