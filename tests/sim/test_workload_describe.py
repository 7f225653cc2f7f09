"""What a workload is said to be like: sharing against a loop over texts, rates, fits; `workload describe`."""

import json
from pathlib import Path

import numpy as np
import pytest

from simulator.ground.streams import stream
from simulator.workloads.arrivals import arrival_times
from simulator.workloads.readers.columns import Workload
from simulator.workloads.requests import Requests, requests_of, validated
from simulator.workloads.statistics import lengths_of, shareable, statistics_of

FIGURES = ("span_s", "rate", "gaps_cv", "burstiness", "prompt_tokens_per_s", "output_tokens_per_s")


def texts(requests: Requests) -> list[list[tuple[object, ...]]]:
    """Return each prompt and answer as its tokens, told apart by whose they are and all that stands before them."""
    found = []
    for row in range(len(requests.prompt)):
        shared, start = int(requests.shared[row]), int(requests.units_start[row])
        named = [
            ("unit", int(requests.units[start + at // requests.unit_tokens]), at % requests.unit_tokens)
            for at in range(shared)
        ]
        length = int(requests.prompt[row] + requests.output[row])
        found.append([*named, *(("stream", int(requests.stream[row]), at) for at in range(shared, length))])
    return found


def shared_by_hand(requests: Requests) -> float:
    seen: set[object] = set()
    count = 0
    for row, text in enumerate(texts(requests)):
        count += sum(token in seen for token in text[: requests.prompt[row]])
        seen |= set(text)
    return count / int(requests.prompt.sum())


@pytest.mark.parametrize("seed", range(6))
def test_shared_text_is_that_of_a_loop_over_tokens(seed: int) -> None:
    rng = stream(seed, 0, "texts")
    prompt, shared = rng.integers(1, 30, 40), rng.integers(0, 30, 40)
    shared = np.minimum(prompt, shared) * (seed % 3 > 0)
    counts = -(-shared // 4)
    requests = validated(
        requests_of(
            prompt,
            rng.integers(1, 9, 40),
            # The same unit stands at one place alone, as one that includes all before it does.
            units=np.concatenate([np.arange(8) * 3 + rng.integers(0, 3, 8) for _ in range(40)]),
            units_start=np.arange(40) * 8,
            unit_tokens=4,
            shared=shared,
            stream=np.where(shared == 0, rng.integers(0, 6, 40), 100 + np.arange(40)),
        )
    )
    assert (counts <= 8).all()
    assert shareable(requests) == pytest.approx(shared_by_hand(requests), rel=1e-12)
    assert shareable(requests) > 0


def test_nothing_shared_is_zero() -> None:
    assert shareable(requests_of([5, 6], [1, 1])) == 0


@pytest.mark.statistical
@pytest.mark.parametrize("burstiness", [0.5, 1.0, 3.0])
def test_the_rate_and_the_burstiness_that_were_drawn_are_found(burstiness: float) -> None:
    count = 50_000
    times = arrival_times(stream(3, 0, "arrivals"), count, 8.0, burstiness)
    requests = requests_of(np.full(count, 100), np.full(count, 20), arrival_s=times)
    found = statistics_of(Workload(requests, "drawn", Path("x")))
    cv = 1 / np.sqrt(burstiness)
    assert found.rate is not None
    assert found.gaps_cv is not None
    assert abs(found.rate / 8 - 1) < 4 * cv / np.sqrt(count)
    # Of the variance of a gamma law's sample, a CV's error is half as large.
    assert abs(found.gaps_cv / cv - 1) < 4 * np.sqrt((2 + 6 / burstiness) / count)
    assert found.prompt_tokens_per_s == pytest.approx(100 * found.rate, rel=1e-3)
    assert found.burstiness == pytest.approx(found.gaps_cv**-2)


def test_a_fit_that_is_none_says_how_far_it_is_off() -> None:
    assert lengths_of(np.full(10, 7)).off_by == 0
    assert lengths_of(np.repeat([1, 1000], 500)).off_by > 0.2
    found = lengths_of(np.arange(1, 1001))
    assert (found.mean, found.least, found.most, found.percentiles) == (500.5, 1, 1000, {50: 500, 90: 900, 99: 990})


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    rng = stream(7, 0, "recorded")
    times = arrival_times(rng, 300, 2.0)
    rows = zip(times, rng.integers(10, 2000, 300), rng.integers(1, 300, 300), strict=True)
    text = "".join(f"{t},{p},{a},{'code' if a % 2 else 'chat'}\n" for t, p, a in rows)
    (tmp_path / "traffic.csv").write_text("sent_s,prompt_tokens,output_tokens,category\n" + text)
    return "traffic.csv"


def test_describe_says_the_same_in_words_and_in_json(output, recorded: str) -> None:
    words = output("workload", "describe", recorded)
    payload = json.loads(output("workload", "describe", recorded, "--json"))
    assert (payload["kind"], payload["schema_version"], payload["requests"]) == ("workload", 1, 300)
    assert f"{recorded}: 300 requests, rows of prompt_tokens and output_tokens" in words
    assert f"{payload['rate']:.3g} requests/s (gaps' CV {payload['gaps_cv']:.2f}, 1 of Poisson)" in words
    laws = f"--isl {payload['prompt']['law']} --osl {payload['output']['law']}"
    assert f"laws: {laws} --rate {payload['rate']:.3g} --burstiness {payload['burstiness']:.3g}" in " ".join(
        words.split()
    )
    assert payload["prompt"]["p50"] <= payload["prompt"]["p90"] <= payload["prompt"]["p99"] <= payload["prompt"]["most"]
    assert sum(payload["categories"].values()) == 300
    assert output("workload", "describe", recorded) == words


def test_without_times_no_rate_is_told(output, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt_tokens,output_tokens\n5,2\n7,2\n9,2\n")
    payload = json.loads(output("workload", "describe", "rows.csv", "--json"))
    assert [payload[name] for name in FIGURES] == [None] * len(FIGURES)
    assert "when they were sent is not told" in output("workload", "describe", "rows.csv")
    (tmp_path / "rows.csv").write_text("sent_s,prompt_tokens,output_tokens\n1,5,2\n1,7,2\n1,9,2\n")
    assert "all sent at once" in output("workload", "describe", "rows.csv")


def test_pictures_are_drawn_and_not_overwritten(run, user_error, recorded: str, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        assert run("workload", "describe", recorded, "--plot", name).returncode == 0
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    assert drawn.count(b'id="axes_') == 3
    user_error(run("workload", "describe", recorded, "--plot", "a.svg"), "--plot a.svg: exists already")
    user_error(run("workload", "describe", recorded, "--plot", "a.pdf"), "--plot a.pdf: suffix '.pdf'")
    (tmp_path / "one.csv").write_text("prompt_tokens,output_tokens\n5,2\n")
    assert run("workload", "describe", "one.csv", "--plot", "one.svg").returncode == 0
    assert (tmp_path / "one.svg").read_bytes().count(b'id="axes_') == 2
