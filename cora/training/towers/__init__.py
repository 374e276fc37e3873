"""Tiny pretrained towers for made-up worlds, so that the whole product runs where no model hub can be reached.

Real models arrive with a vision encoder that knows what things look like and a language model that knows how to
speak. The tiny preset makes its own two in about a minute and saves them as ordinary Hugging Face directories, which
are then loaded by the same code as any hub name.
"""

from cora.training.towers.language import make_language_tower
from cora.training.towers.vision import make_vision_tower

__all__ = ["make_language_tower", "make_vision_tower"]
