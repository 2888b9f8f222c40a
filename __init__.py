"""posegan puts the person of one photograph into another pose.

    model = posegan.load()
    picture = model("photo.jpg", "walk")[0]
    posegan.score(picture, target)

`load`, `Model` and `score` are the whole Python interface; they live in posegan.photo.
"""

from posegan.posegan import __getattr__ as __getattr__
from posegan.posegan import main

__all__ = ["Model", "load", "main", "score"]
