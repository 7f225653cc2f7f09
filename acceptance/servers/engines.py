"""How engines write text and score it, token by token: vLLM by its completions, SGLang by /generate.

Both give log probabilities of text at temperature 1, whatever a request's own temperature is: vLLM's `--logprobs-mode
processed_logprobs` concerns the tokens that it draws, not those that it is given. Servers that score no text they are
given (llama.cpp, TGI behind its OpenAI interface) have no place here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .answer import EMPTY, MALFORMED, Failed
from .client import Client, shown

# Choices that are listed beside a token: two tell the first one where it ties with another, and its lead.
LISTED = 2
# vLLM writes this in place of minus infinity.
LEAST = -9000.0
# What rounding adds to a logarithm of a probability.
ROUNDED = 1e-3
UNKNOWN, MOST_RANK = -1, 2**31 - 2
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """What a model thought of tokens, at temperature 1; each [tokens].

    log: ln of a token's probability. rank: tokens that are preferred to it, UNKNOWN where the engine does not tell.
    first: the model's first choice, of tied ones the lowest. log_first, log_second: of its two likeliest tokens.
    names: how the engine writes the tokens.
    """

    log: Floats
    rank: Ints
    first: Ints
    log_first: Floats
    log_second: Floats
    names: tuple[str, ...]


class Engine(Protocol):
    """How a kind of engine is asked; bodies are JSON."""

    name: str

    def write(self, model: str, before: list[int], tokens: int, temperature: float, seed: int) -> tuple[str, Any]:
        """Return where and what to ask for text."""

    def written(self, told: Any) -> tuple[list[int], str]:
        """Return the tokens of an answer, its end among them, and the text."""

    def score(self, model: str, tokens: list[int], last: int) -> tuple[str, Any]:
        """Return where and what to ask for scores of the last so many tokens of a text."""

    def scores(self, told: Any, tokens: list[int]) -> Scores:
        """Return those of an answer; tokens: those that are scored."""


class Vllm:
    """vLLM, from 0.10.2 on: `prompt_logprobs` and `return_token_ids` of /v1/completions."""

    name = "vllm"
    # A model's own generation config would stand in for what is not said.
    PLAIN: ClassVar = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}

    def write(self, model: str, before: list[int], tokens: int, temperature: float, seed: int) -> tuple[str, Any]:
        """Return where and what to ask for text."""
        asked = {"model": model, "prompt": before, "max_tokens": tokens, "temperature": temperature, "seed": seed}
        return "/v1/completions", asked | self.PLAIN | {"frequency_penalty": 0.0, "return_token_ids": True}

    def written(self, told: Any) -> tuple[list[int], str]:
        """Return the tokens of an answer, its end among them, and the text."""
        choice = told["choices"][0]
        if choice.get("token_ids") is None:
            raise Failed(MALFORMED, "the answer has no token_ids, as those of vLLM have since 0.10.2")
        return list(choice["token_ids"]), str(choice["text"])

    def score(self, model: str, tokens: list[int], last: int) -> tuple[str, Any]:
        """Return where and what to ask for scores of the last so many tokens of a text."""
        asked = {"model": model, "prompt": tokens, "max_tokens": 1, "temperature": 0.0}
        return "/v1/completions", asked | {"prompt_logprobs": LISTED}

    def scores(self, told: Any, tokens: list[int]) -> Scores:
        """Return those of an answer; tokens: those that are scored."""
        listed = told["choices"][0]["prompt_logprobs"][-len(tokens) :]
        rows = []
        for token, at in zip(tokens, listed, strict=True):
            choices = {int(key): float(value["logprob"]) for key, value in at.items()}
            own = at[str(token)]
            rows.append(row_of(token, choices, own["rank"] - 1, own.get("decoded_token")))
        return scores_of(rows)


class Sglang:
    """SGLang: `input_token_logprobs` of /generate; how far down a token is that it does not list, it does not tell."""

    name = "sglang"

    def write(self, model: str, before: list[int], tokens: int, temperature: float, seed: int) -> tuple[str, Any]:
        """Return where and what to ask for text; without deterministic inference a seed has no effect there."""
        sampling = {"max_new_tokens": tokens, "temperature": temperature, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
        asked = {"input_ids": before, "sampling_params": sampling | {"repetition_penalty": 1.0}}
        return "/generate", asked | {"return_logprob": True, "logprob_start_len": -1}

    def written(self, told: Any) -> tuple[list[int], str]:
        """Return the tokens of an answer, its end among them, and the text."""
        return [at[1] for at in told["meta_info"]["output_token_logprobs"]], str(told["text"])

    def score(self, model: str, tokens: list[int], last: int) -> tuple[str, Any]:
        """Return where and what to ask for scores of the last so many tokens of a text."""
        asked = {"input_ids": tokens, "sampling_params": {"max_new_tokens": 1, "temperature": 0.0}}
        start = len(tokens) - last - 1  # the one before has none: nothing is looked at ahead of it
        of_logs = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": LISTED}
        return "/generate", asked | of_logs | {"return_text_in_logprobs": True}

    def scores(self, told: Any, tokens: list[int]) -> Scores:
        """Return those of an answer; tokens: those that are scored."""
        about = told["meta_info"]
        own, listed = (about[f"input_{name}_logprobs"][-len(tokens) :] for name in ("token", "top"))
        rows = []
        for token, (log, number, name), at in zip(tokens, own, listed, strict=True):
            if number != token:
                raise Failed(MALFORMED, f"token {number} is scored where {token} was asked")
            choices = {int(other): float(value) for value, other, _ in at} | {token: float(log)}
            rows.append(row_of(token, choices, UNKNOWN, name))
        return scores_of(rows)


ENGINES: tuple[Engine, ...] = (Vllm(), Sglang())


class Row(NamedTuple):
    """What is told of one token."""

    log: float
    rank: int
    first: int
    log_first: float
    log_second: float
    name: str


def row_of(token: int, choices: Mapping[int, float], rank: int, name: Any) -> Row:
    """Return what is told of a token; choices: ln p of it and of the model's likeliest; rank: as the engine counts it.

    Engines count tied tokens as preferred; here, as in argmax, of tied ones the lowest is first.
    """
    log = choices[token]
    ordered = sorted(choices, key=lambda other: (-choices[other], other))
    first, second = ordered[0], [*ordered[1:2], None][0]
    place = ordered.index(token)
    is_listed = place < LISTED or log >= choices[first]
    log_second = -math.inf if second is None else choices[second]
    return Row(log, place if is_listed else rank, first, choices[first], log_second, str(name or ""))


def scores_of(rows: Sequence[Row]) -> Scores:
    """Return rows as arrays.

    Raises:
        Failed: They are no logarithms of probabilities.
    """
    log, rank, first, log_first, log_second, names = zip(*rows, strict=True)
    logs = np.array([log, log_first, log_second], np.float64)
    ranks = np.array(rank, np.int64)
    if (ranks < UNKNOWN).any() or (ranks > MOST_RANK).any():
        raise Failed(MALFORMED, f"a rank is outside 1 to {MOST_RANK + 1:,}")
    if np.isnan(logs).any() or (logs > ROUNDED).any() or (np.exp(logs[1:]).sum(0) > 1 + ROUNDED).any():
        raise Failed(
            MALFORMED,
            "the scores are no log probabilities, expected a server without --logprobs-mode raw_logits or "
            "processed_logits",
        )
    logs = np.where(logs < LEAST, -np.inf, logs).clip(max=0)
    return Scores(logs[0], ranks, np.array(first), logs[1], logs[2], tuple(names))


class Asked(NamedTuple):
    """A model on a server: which engine it is, where it is, by what name, and how many tokens it takes."""

    client: Client
    engine: Engine
    url: str
    model: str

    async def write(self, before: list[int], tokens: int, temperature: float, seed: int) -> tuple[list[int], str]:
        """Return what it writes behind a text, and that as text.

        Raises:
            Failed: It did not.
        """
        told = await asked(self.client, self.url, *self.engine.write(self.model, before, tokens, temperature, seed))
        found, text = read(self.engine.written, told)
        if not found:
            raise Failed(EMPTY)
        if len(found) > tokens or any(type(token) is not int or token < 0 for token in found):
            raise Failed(MALFORMED, "its tokens are none")
        return found, text

    async def score(self, before: list[int], tokens: list[int]) -> Scores:
        """Return what it thinks of tokens behind a text.

        Raises:
            Failed: It did not tell.
        """
        whole = [*before, *tokens]
        told = await asked(self.client, self.url, *self.engine.score(self.model, whole, len(tokens)))
        found: Scores = read(self.engine.scores, told, tokens)
        return found


async def asked(client: Client, url: str, path: str, body: Any) -> Any:
    """Return the JSON that a server answers.

    Raises:
        Failed: It answers none.
    """
    answer = await client.fetch(f"{url}{path}", json.dumps(body, separators=(",", ":")).encode())
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise Failed(MALFORMED, f"{shown(answer.decode(errors='replace'))[:60]!r} is no JSON") from None


def read(reader: Any, told: Any, *more: Any) -> Any:
    """Return what a reader makes of an answer.

    Raises:
        Failed: It is of another form.
    """
    try:
        return reader(told, *more)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Failed(MALFORMED, shown(f"the answer is of another form ({type(error).__name__}: {error})")) from None


async def engine_of(client: Client, url: str, model: str, tokens: list[int]) -> tuple[Engine | None, str]:
    """Return the engine that a server is, by having a text scored in each way; None of another, and what it said."""
    said = []
    for engine in ENGINES:
        try:
            await Asked(client, engine, url, model).score(tokens[:1], tokens[1:])
        except Failed as error:
            if str(error.detail).startswith("the scores are no log"):
                return None, error.detail
            said.append(f"{engine.name}: {error}")
        else:
            return engine, ""
    return None, "; ".join(said)
