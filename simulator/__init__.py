"""Forecasts whether speculative decoding pays: what rounds cost, what they accept, and a simulator of both.

The public face is what `__init__.pyi` names, each imported when it is first used; docs/library.md shows it at work.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
