"""Models: what learns. Each keeps its state as Blocks and meets the loop through `types.Model`."""
