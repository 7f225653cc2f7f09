"""Measures what a draft/target pair accepts, with transformers: a trace, then histograms; and decodes with methods.

The public face is what `__init__.pyi` names, each imported when it is first used; docs/library.md shows it at work.
"""

import lazy_loader

_face, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    try:
        return _face(name)
    except ModuleNotFoundError:
        from .models.bundled import load_libraries

        load_libraries()  # says what brings the one that is missing
        raise
