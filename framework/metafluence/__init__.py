"""metafluence: data influence in meta-learning.

The whole public API is here; `__init__.pyi` says which names and where they live. They are imported when first used, so
that the command line can list components without importing torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
