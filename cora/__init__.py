"""CORA: vision-language models that see 360-degree panoramas.

Importing the package is light: it loads neither torch nor transformers. When transformers is loaded later, its
``AutoConfig``, ``AutoProcessor`` and ``AutoModel…`` classes learn about CORA checkpoints by themselves.
"""

from cora._auto_classes import register_when_transformers_loads

__version__ = "2.1.0.dev0"
__all__ = ["__version__"]

register_when_transformers_loads()
