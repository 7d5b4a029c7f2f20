"""Stores: what outlives the process. Written to a temporary name, synced, renamed; read only where checksums agree."""
