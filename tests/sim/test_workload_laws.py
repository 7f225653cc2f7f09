"""Laws of lengths and arrivals against closed forms; sessions against a loop; what is typed and is no law."""

import numpy as np
import pytest

from simulator.ground.artefacts import UserError
from simulator.ground.streams import stream
from simulator.workloads.arrivals import arrival_times, replayed, sent_anew
from simulator.workloads.laws import Law, drawn_lengths, parse_lengths, parse_times
from simulator.workloads.requests import MOST_TOKENS, requests_of, validated
from simulator.workloads.sessions import prefixed, sessions
from simulator.workloads.statistics import lengths_of

COUNT = 100_000
# Standard errors within which a sample has to lie: one in 16,000 does not.
WITHIN = 4.0


def rng(name: str = "lengths", seed: int = 1) -> np.random.Generator:
    return stream(seed, 0, name)


def gamma_errors(gaps: np.ndarray, rate: float, shape: float) -> tuple[float, float]:
    """How many standard errors mean and variance of gaps lie from those of a gamma law."""
    mean, variance = 1 / rate, 1 / shape / rate**2
    of_mean, of_variance = np.sqrt(variance / len(gaps)), variance * np.sqrt((2 + 6 / shape) / len(gaps))
    return abs(gaps.mean() - mean) / of_mean, abs(gaps.var() - variance) / of_variance


@pytest.mark.statistical
@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_variance_of_their_gamma_law(shape: float) -> None:
    gaps = np.diff(arrival_times(rng("arrivals"), COUNT, 5.0, shape), prepend=0)
    assert max(gamma_errors(gaps, 5.0, shape)) < WITHIN
    # Negative control: gaps a tenth as bursty, or at a rate 3 % off, are told from them.
    assert max(gamma_errors(gaps, 5.0, 2 * shape)) > WITHIN
    assert max(gamma_errors(gaps * 1.03, 5.0, shape)) > WITHIN


def test_constant_and_all_at_once_need_no_chance() -> None:
    assert arrival_times(rng(), 3, 4.0, np.inf).tolist() == [0.25, 0.5, 0.75]
    assert arrival_times(rng(), 3, np.inf).tolist() == [0, 0, 0]
    for rate, burstiness in ((0, 1), (-1, 1), (np.nan, 1), (1, 0), (1, np.nan)):
        with pytest.raises(UserError, match="is not allowed, expected"):
            arrival_times(rng(), 3, rate, burstiness)


def test_one_seed_gives_one_series_and_another_rate_the_same_on_another_scale() -> None:
    first = arrival_times(rng(), 1000, 5.0, 0.5)
    assert first.tobytes() == arrival_times(rng(), 1000, 5.0, 0.5).tobytes()
    assert np.allclose(arrival_times(rng(), 1000, 20.0, 0.5) * 4, first, rtol=1e-12)
    assert arrival_times(rng(seed=2), 1000, 5.0, 0.5).tobytes() != first.tobytes()


@pytest.mark.statistical
@pytest.mark.parametrize(("mean", "sigma"), [(1000, 0.9), (200, 0.3), (40_000, 1.5)])
def test_the_mean_of_a_lognormal_law_is_that_of_its_tokens(mean: float, sigma: float) -> None:
    tokens = parse_lengths("--isl", f"lognormal:{mean}:{sigma}").tokens(rng(), COUNT)
    error = mean * np.sqrt(np.expm1(sigma**2) / COUNT)
    assert abs(tokens.mean() - mean) < WITHIN * error
    # Negative control: the median, which others call the scale, is another number.
    assert abs(np.median(tokens) - mean) > WITHIN * error
    found = lengths_of(tokens)
    assert abs(found.sigma - sigma) < WITHIN * sigma / np.sqrt(2 * COUNT) + 1e-3
    assert found.off_by < 0.01
    assert abs(np.median(tokens) / (mean * np.exp(-(sigma**2) / 2)) - 1) < 0.02


def test_lengths_are_whole_at_least_one_and_at_most_the_cap() -> None:
    tokens = parse_lengths("--osl", "lognormal:3:2:50").tokens(rng(), 10_000)
    assert tokens.dtype == np.int32
    assert (tokens.min(), tokens.max()) == (1, 50)
    assert parse_lengths("--osl", "lognormal:1e8:2").tokens(rng(), 10_000).max() == MOST_TOKENS
    assert set(parse_lengths("--isl", "100:102").tokens(rng(), 500).tolist()) == {100, 101, 102}
    assert parse_lengths("--isl", "1k").tokens(rng(), 2).tolist() == [1000, 1000]
    # As `vllm bench` rounds the ends: down and up.
    ratio = parse_lengths("--isl", "ratio:15:0.3")
    assert (ratio.first, ratio.second) == (10, 20)
    assert parse_lengths("--isl", "ratio:1:0.9").first == 1


@pytest.mark.parametrize("text", ["200", "100:300", "ratio:200:0.5", "lognormal:200:0.8"])
def test_means_are_what_is_drawn(text: str) -> None:
    law = parse_lengths("--osl", text)
    drawn = law.tokens(rng(), COUNT)
    assert law.mean == 200
    assert abs(drawn.mean() - 200) <= WITHIN * drawn.std() / np.sqrt(COUNT)


@pytest.mark.parametrize(
    "text",
    [
        *("", "abc", "0", "-5", "1.5", "300:100", "100:300:100", "100,200", "1:2:3:4", "inf", "nan", "1e12", "0:9"),
        *("lognormal", "lognormal:100", "lognormal:0:1", "lognormal:100:-1", "lognormal:100:5.1", "lognormal:1:2:3:4"),
        *("lognormal:100:1:0", "exponential:100", "ratio:100", "ratio:100:1", "normal:100:2", "file:", "1e9:2e9"),
    ],
)
def test_what_is_no_law_of_lengths_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_lengths("--isl", text)
    message = str(refused.value)
    assert message.startswith(f"--isl: {text!r} is not allowed, expected ")
    assert "\n" not in message
    assert len(message) < 200


def test_times_name_their_units() -> None:
    assert parse_times("--think", "2s") == parse_times("--think", "2") == parse_times("--think", "2000ms")
    assert parse_times("--think", "exponential:1500ms").mean == 1.5
    assert parse_times("--think", "0").draw(rng(), 2).tolist() == [0, 0]
    law = parse_times("--think", "500ms:1500ms")
    assert (law.first, law.second) == (0.5, 1.5)
    for text in ("soon", "-1s", "2s:1s", "exponential:-1", "1e10"):
        with pytest.raises(UserError, match=r"^--think: .* is not allowed, expected "):
            parse_times("--think", text)


def test_recorded_lengths_are_drawn_in_the_pairs_that_stood_together(tmp_path) -> None:
    path = tmp_path / "traffic.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{10 * i},{i}\n" for i in range(1, 50)))
    isl, osl = (parse_lengths("--isl", f"file:{path}", side) for side in ("prompt", "output"))
    prompt, output = drawn_lengths(rng(), 1000, isl, osl)
    assert (prompt == 10 * output).all()
    assert len(set(output.tolist())) == 49
    # Of columns that are named one by one: each by itself.
    column = parse_lengths("--osl", f"file:{path}:output_tokens")
    prompt, output = drawn_lengths(rng(), 1000, isl, column)
    assert (prompt != 10 * output).any()
    assert set(output.tolist()) <= set(range(1, 50))
    with pytest.raises(UserError, match=f"^--osl: 'tokens' is no column of {path}, expected prompt_tokens, output"):
        parse_lengths("--osl", f"file:{path}:tokens")


def test_a_replay_is_so_many_times_as_fast() -> None:
    recorded = requests_of([5, 6], [1, 2], arrival_s=[1.0, 3.0], after=[-1, -1], think_s=[0, 0.5])
    twice = replayed(recorded, 2)
    assert (twice.arrival_s.tolist(), twice.think_s.tolist()) == ([0.5, 1.5], [0, 0.25])
    for speed in (0, -1, np.inf, np.nan):
        with pytest.raises(UserError, match="speed"):
            replayed(recorded, speed)
    anew = sent_anew(requests_of([1, 2, 3], [1, 1, 1], after=[-1, 0, -1]), np.array([7.0, 8.0]))
    assert anew.arrival_s.tolist() == [7, 0, 8]


def test_turns_hold_all_that_was_said_before() -> None:
    laws = {name: parse_lengths("--x", text) for name, text in SESSION.items()}
    think = parse_times("--think", "exponential:2s")
    made = validated(sessions(rng(), np.arange(200.0), think_s=think, most_tokens=900, **laws))
    assert set(made.stream.tolist()) == set(range(200))
    said: dict[int, int] = {}
    for row, (session, prompt, output) in enumerate(zip(made.stream, made.prompt, made.output, strict=True)):
        if session not in said:
            assert (made.after[row], made.arrival_s[row], made.think_s[row]) == (-1, session, 0)
            assert 50 <= prompt <= 150
        else:
            assert made.after[row] == row - 1
            assert 10 <= prompt - said[session] <= 20
            assert prompt + output <= 900
        said[session] = prompt + output
    turns = np.bincount(made.stream)
    assert (turns.min(), turns.max()) == (1, 6)
    again = sessions(rng(), np.arange(200.0), think_s=think, most_tokens=900, **laws)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(made, again, strict=True))


SESSION = {"turns": "1:6", "opening": "50:150", "further": "10:20", "output": "lognormal:100:0.7"}


def test_a_session_ends_where_its_context_would() -> None:
    made = sessions(rng(), np.zeros(2), turns=Law(0, 9), opening=Law(0, 100), further=Law(0, 10), output=Law(0, 50),
                    most_tokens=300)  # fmt: skip
    assert made.prompt.tolist() == [100, 160, 220] * 2
    assert made.after.tolist() == [-1, 0, 1, -1, 3, 4]


def test_a_prefix_is_shared_by_those_that_have_its_name() -> None:
    made = validated(prefixed(requests_of([10, 20, 30], [1, 1, 1]), 100, np.array([7, 9, 7])))
    assert made.prompt.tolist() == [110, 120, 130]
    assert made.shared.tolist() == [100] * 3
    assert made.units[made.units_start].tolist() == [7, 9, 7]
    with pytest.raises(UserError, match="shared text already"):
        prefixed(made, 5)
