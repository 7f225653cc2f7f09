"""transformers' own sampling function is called as its release wants it, which no signature has to show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers.generation.utils

from cuda_probe.probe.probes import Unsupported
from cuda_probe.sampling_bench.torch_peers import transformers_calls

TOKENS = torch.tensor([[5, 6, 7]])


def older(ids: Any, q: Any, length: int, p: Any, is_done_candidate: bool, weight: float | None = None) -> Any:
    assert is_done_candidate is False
    return TOKENS, torch.tensor(length)


def newer(ids: Any, q: Any, length: int, p: Any, weight: float | None = None) -> Any:
    return TOKENS, torch.tensor(length)


def hidden(*given: Any, **more: Any) -> Any:
    """The older one behind a wrapper, whose signature says nothing."""
    return older(*given, **more)


def another(ids: Any, q: Any, length: int, p: Any, *, rule: str) -> Any:
    raise AssertionError


def decided(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> list[tuple[int, int]]:
    monkeypatch.setattr(transformers.generation.utils, "_speculative_sampling", function)
    calls = transformers_calls(torch.zeros(2, 3, 9), torch.zeros(2, 2, 9), torch.zeros(2, 2, dtype=torch.long), 1.0)
    return [(int(accepted), int(token)) for accepted, token in calls()]


@pytest.mark.parametrize("function", [older, newer, hidden])
def test_every_release_decides_every_sequence(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> None:
    assert decided(monkeypatch, function) == [(2, 7)] * 2


def test_what_no_release_did_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = r"^transformers \S+ changed its interface \(_speculative_sampling: {}.*\); specsim was tested with 5"
    with pytest.raises(Unsupported, match=changed.format(".*rule")):
        decided(monkeypatch, another)
    with pytest.raises(Unsupported, match=changed.format("9 matches and tokens of shape")):
        decided(monkeypatch, lambda *_, **__: (TOKENS, torch.tensor(9)))
