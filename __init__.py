"""posegan puts the person of one photograph into another pose."""

from posegan.posegan import main

__all__ = ["main"]
