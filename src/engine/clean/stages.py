"""The stages of this room: importing this module registers them."""
