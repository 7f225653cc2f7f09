"""Times of the same step that lie apart between turns are told; those of other work, and of few turns, are not."""

from acceptance.results.steadiness import steadiness_notes

from .test_bench_summary import plain, record


def notes(*records):
    return steadiness_notes(records)


def test_the_baselines_step_is_told_where_a_fifth_of_turns_is_slow() -> None:
    for slow, fold in ((1.0, ""), (1.4, ""), (2.0, "2.0-fold"), (6.0, "6.0-fold")):
        found = notes(*(plain(p, step_ms=10 * (slow if p % 5 == 0 else 1)) for p in range(10)))
        expected = f"times of the same step vary {fold} between turns: the machine was busy, "
        assert found == ([expected + "take more --runs or a quiet one"] if fold else [])
    # Repeats count as turns of their own.
    assert notes(*(plain(0, run, step_ms=10 * (1 + 2 * (run > 6))) for run in range(10)))[0].startswith("times of")


def test_one_slow_turn_of_many_and_too_few_turns_say_nothing() -> None:
    assert notes(*(plain(p, step_ms=100 if p == 3 else 10) for p in range(20))) == []
    assert notes(plain(0), plain(1), plain(2, step_ms=90)) == []
    assert notes() == []
    failed = {"status": "error", "error": "no"}
    assert notes(*(plain(p, step_ms=10 * (1 + p % 2)) | failed for p in range(9))) == []


def test_another_methods_verifying_pass_is_compared_and_passes_over_more_tokens_are_not() -> None:
    steady = [plain(p) for p in range(10)]
    slow = [record("m", p, ms={"verify": 120.0 if p % 5 == 0 else 40.0}) for p in range(10)]
    assert "vary 3.0-fold" in notes(*steady, *slow)[0]
    long = [record("m", p, ms={"verify": 120.0}, rounds=[(16, 2)] * 4) for p in range(0, 10, 5)]
    assert notes(*steady, *(r for r in slow if r["prompt_index"] % 5), *long) == []
    # What drafting takes is not of the same step.
    drafts = [record("m", p, ms={"verify": 40.0, "draft": 40.0 * (1 + p % 2 * 9)}) for p in range(10)]
    assert notes(*steady, *drafts) == []
