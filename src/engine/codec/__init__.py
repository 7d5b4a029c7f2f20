"""Codecs: bytes in one frame for wire, shared window, journal and file."""
