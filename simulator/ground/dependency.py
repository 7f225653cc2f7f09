"""Optional libraries: import one when it is needed, or say in one line what brings it."""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from .artefacts import UserError
from .tested import warn_untested


class Dependency(NamedTuple):
    """An optional library: what is imported, what it is for, and the extra of ours that installs it."""

    import_name: str
    purpose: str
    extra: str


def require(dependency: Dependency, what: str = "") -> ModuleType:
    """Import the library, for the option `what`; warn of a release that no test has seen.

    Raises:
        UserError: It is not installed; says what for and how to install it.
        ImportError: It is installed but broken; that is not ours to hide.
    """
    try:
        module = import_module(dependency.import_name)
    except ModuleNotFoundError as error:
        if error.name != dependency.import_name.partition(".")[0]:
            raise
        raise UserError(
            f"{what and f'{what}: '}{dependency.import_name} is not installed; {dependency.purpose} needs it: "
            f'pip install "specsim[{dependency.extra}]"'
        ) from None
    warn_untested(dependency.import_name)
    return module
