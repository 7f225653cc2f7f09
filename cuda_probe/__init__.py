"""Measures a device: kernels that tell the truth about it, a timing harness, and what they found as a file.

The public face is what `__init__.pyi` names, each imported when it is first used; docs/library.md shows it at work.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
