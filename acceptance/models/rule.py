"""What is sampled from: temperature, top-k and top-p, applied to the target's and the draft's logits alike."""

from dataclasses import dataclass

from simulator.ground.artefacts import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRule:
    """How logits become the law that a token is drawn from; in this order, as in transformers and vLLM.

    temperature: 0 is greedy. top_k: the tokens of the k largest logits stay; 0: all. top_p: of those, the fewest
    whose probabilities reach top_p stay; 1: all.

    Raises:
        UserError: A value that is not allowed; names the option.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN fails as well.
        if not (self.temperature == 0 or 0.01 <= self.temperature <= 100):
            raise UserError(f"--temperature: {self.temperature:g} is not allowed, expected 0 or 0.01 to 100")
        if self.top_k < 0:
            raise UserError(f"--top-k: {self.top_k} is not allowed, expected 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p: {self.top_p:g} is not allowed, expected above 0, at most 1")

    @property
    def is_greedy(self) -> bool:
        """Whether the first choice is always taken."""
        return self.temperature == 0


def rules_of_pair(
    temperature: float, draft_temperature: float | None, top_k: int, top_p: float
) -> tuple[SamplingRule, SamplingRule]:
    """Return what the target and the draft sample from; None: the draft at the target's temperature."""
    rule = SamplingRule(temperature=temperature, top_k=top_k, top_p=top_p)
    if draft_temperature is None:
        return rule, rule
    try:
        return rule, SamplingRule(temperature=draft_temperature, top_k=top_k, top_p=top_p)
    except UserError as error:
        raise UserError(str(error).replace("--temperature", "--draft-temperature")) from None
