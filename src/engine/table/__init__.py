"""A table of parameters over ranks: opened, planned, and moved while it learns."""
