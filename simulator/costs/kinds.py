"""Which kind costs are of, told without importing the kinds that are not in use."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from .model_costs import ModelPair
    from .step import Costs
    from .timed_pair import DecodedPair, TimedTokens


def is_of(costs: "Costs", module: str, name: str) -> bool:
    """Whether costs are of a class of a file beside this one: of none, where nobody has imported it."""
    found: Any = sys.modules.get(f"{__package__}.{module}")
    return found is not None and isinstance(costs, getattr(found, name))


def is_models(costs: "Costs") -> "TypeIs[ModelPair]":
    """Whether costs are those of two models on a device."""
    return is_of(costs, "model_costs", "ModelPair")


def is_decoded(costs: "Costs") -> "TypeIs[DecodedPair]":
    """Whether costs are those of a pair that was timed while it decoded."""
    return is_of(costs, "timed_pair", "DecodedPair")


def is_timed(costs: "Costs") -> "TypeIs[TimedTokens]":
    """Whether costs are a server's times a token."""
    return is_of(costs, "timed_pair", "TimedTokens")
