"""The published schema is one, every line is checked against it, --strict finds what does not agree."""

import copy
import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.bench.clock import Phases
from acceptance.bench.machine import EnergyUsed, surroundings
from acceptance.bench.quality import Quality
from acceptance.bench.record import Divergence, Measured, Origin, Skipped, as_record
from acceptance.decoders.batch import Round
from acceptance.results.journal import to_line
from acceptance.results.records import SCHEMA_PATH
from acceptance.results.settings import config_sha256
from acceptance.results.summary import summarise
from acceptance.results.validate import disagreements, line_problems, problems
from simulator.ground.artefacts import UserError, envelope

SCHEMA = json.loads(SCHEMA_PATH.read_text())
SHA = "0" * 64
METHODS = {"baseline": "baseline", "lossy": "topk", "x": "speculative", "y": "ngram"}
# x does not run.
ORDER = {"baseline": 0, "lossy": 1, "x": 0, "y": 2}


def header(**changes):
    told = {"items_sha256": SHA, "models": {}, "prompt_count": 5, "max_new_tokens": 8, "runs": 1}
    told |= {"methods": [{"name": n, "method": m, "knobs": {"k": 4}} for n, m in METHODS.items()], "batch_size": 1}
    told |= {"seed": 0, "temperature": 0.0, "more": "is allowed"} | changes
    found = envelope("decode_run", 2, told | {"config_sha256": config_sha256(told)})
    return found | {"environment": found["environment"] | surroundings(["cpu"])}


def origin(method: str, prompt: int, batch_size: int = 1) -> Origin:
    kind = {"method": method, "algorithm": METHODS[method], "is_exact": method != "lossy", "order": ORDER[method]}
    text = {"prompt_index": prompt, "prompt_source": f"p{prompt}", "prompt_category": "", "prompt_tokens": 7}
    text |= {"batch_index": prompt // batch_size, "batch_size": batch_size, "batch_row": prompt % batch_size}
    return Origin(**kind, **text, run=0, timestamp_utc="2026-01-02T03:04:05+00:00")


def measured(rng: np.random.Generator, is_plain: bool, phases: Phases | None = None) -> Measured:
    rounds = []
    for _ in range(4):
        drafted = 0 if is_plain else 4
        accepted = int(rng.integers(drafted + 1))
        kept = min(accepted, 1)
        more = {"draft_passes": drafted, "depth": drafted, "overruled": kept, "judged": min(kept + 1, drafted)}
        more |= {"leaves": min(drafted, 1), "pruned": 0 if is_plain else 3, "over_budget": 0 if is_plain else 2}
        rounds.append(Round(start=0, drafted=drafted, accepted=accepted, committed=accepted + 1, **more))
    times = rng.uniform(0.01, 0.1, 6).tolist()
    names = ("prefill_s", "draft_s", "verify_s", "sample_s", "kv_s", "other_s")
    phases = phases or Phases(**dict(zip(names, times, strict=True)), total_s=sum(times), first_token_s=times[0] + 0.01)
    return Measured(
        # Never the same for two methods, even where they are as long.
        tokens=[is_plain, *range(1, sum(r.committed for r in rounds))],
        rounds=rounds,
        phases=phases,
        is_tree=not is_plain,
        has_judge=not is_plain,
        identical=is_plain,
        divergence=None if is_plain else Divergence(position=1, margin=0.5, is_exact=False),
        memory_peak_bytes=10,
        energy=EnergyUsed(joules=1.5, window_s=0.1, idle_w=10.0),
        quality=Quality(mean_logp_nats=-1.0, mean_rank=1.5, argmax_share=0.5),
        reference=[0, 5, 2],
    )


def finished(*records):
    """These records as they are read back, with the summaries of all of them at the end."""
    body = [json.loads(to_line(r)) for r in records if r["kind"] != "decode_summary"]
    return body + [json.loads(to_line(s)) for s in summarise(body[1:], 0)]


def lines():
    rng = np.random.default_rng(0)
    records = [as_record(origin(m, p), measured(rng, m == "baseline")) for p in range(5) for m in ("baseline", "lossy")]
    records += [as_record(origin("x", 0), Skipped(status="skipped", reason="one at a time"))]
    records += [as_record(origin("y", p), Skipped(status="error", reason="RuntimeError: no")) for p in range(5)]
    return finished(header(), *records)


LINES = lines()


def batched():
    """Two prompts in one batch, and summaries."""
    rng = np.random.default_rng(1)
    records = []
    for method in ("baseline", "lossy"):
        first = measured(rng, method == "baseline")
        rows = [first, measured(rng, method == "baseline", first.phases)]
        records += [as_record(origin(method, p, 2), row) for p, row in enumerate(rows)]
    methods = [{"name": n, "method": METHODS[n], "knobs": {}} for n in ("baseline", "lossy")]
    return finished(header(methods=methods, prompt_count=2, batch_size=2), *records)


def found_in(tmp_path: Path, records, strict: bool = True) -> list[str]:
    (tmp_path / "a.jsonl").write_bytes(b"".join(map(to_line, records)))
    return problems(tmp_path / "a.jsonl", strict=strict)


def strict(tmp_path: Path, records) -> str:
    return " ".join(found_in(tmp_path, records))


def edited(line: int, **changes):
    """All lines, of which this one is changed."""
    return [*LINES[:line], LINES[line] | changes, *LINES[line + 1 :]]


def test_the_schema_is_json_schema_and_what_we_write_is_valid(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for line in LINES:
        jsonschema.Draft202012Validator(SCHEMA).validate(line)
    assert found_in(tmp_path, LINES) == []


def paths(value, at=()):
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], (*at, 0))


def changed(record, path, value):
    found = copy.deepcopy(record)
    inside = found
    for key in path[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return found


VALUES = st.sampled_from([..., None, True, -1, 0, 1, 2.5, "", "x", "ok", "decode_record", [], [1], {}, {"a": 1}])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_line_is_refused_where_the_whole_schema_refuses_it(data) -> None:
    record = data.draw(st.sampled_from(LINES))
    path = data.draw(st.sampled_from([p for p in paths(record) if p and p != ("kind",)]))
    spoilt = changed(record, path, data.draw(VALUES))
    ours = list(line_problems(spoilt, first=record["kind"] == "decode_run"))
    assert (not ours) == jsonschema.Draft202012Validator(SCHEMA).is_valid(spoilt)


def test_a_time_is_a_whole_one() -> None:
    for value in ("2026-01-02Tx", "2026-01-02T03:04", "2026-01-02T03:04:05", "2026-01-02T03:04:05Z and"):
        assert list(line_problems(LINES[1] | {"timestamp_utc": value}, first=False)), value
        assert list(line_problems(LINES[0] | {"created_utc": value}, first=True)), value


def test_unknown_and_missing_keys_other_kinds_a_second_header_and_a_torn_line_are_named(tmp_path: Path) -> None:
    spoilt = [LINES[0], LINES[1] | {"mine": 1}, {k: v for k, v in LINES[2].items() if k != "ttft_s"}]
    assert found_in(tmp_path, spoilt, strict=False) == ["line 2: mine is not known", "line 3: ttft_s is missing"]
    trace, second = found_in(tmp_path, [LINES[0], {"kind": "trace"}, LINES[0]], strict=False)
    assert 'line 2: kind is "trace"' in trace
    assert 'line 3: kind is "decode_run"' in second
    found_in(tmp_path, LINES)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"kind": "dec')
    assert problems(tmp_path / "a.jsonl", strict=True) == ["the last 13 bytes are a torn line"]


def test_what_is_no_file_of_ours_is_one_error(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"text\n", b"[1]\n"):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(UserError, match="expected a file of bench-decode"):
            problems(tmp_path / "a.jsonl", strict=False)
    os.mkfifo(tmp_path / "pipe")  # refused and not waited for
    with pytest.raises(UserError, match="pipe: is a folder, device or pipe, expected a file"):
        problems(tmp_path / "pipe", strict=False)


# Each leaves the line valid by the schema.
TAMPERED = {
    ("generated_tokens",): (1, "generated_tokens is 1"),
    ("resume_key",): ("other/0/0", "resume_key"),
    ("rounds", "accepted", 0): (9, "accepted 9"),
    ("rounds", "committed", 0): (9, "committed 9"),
    ("rounds", "drafted"): ([1], "different numbers"),
    ("rounds", "overruled", 0): (9, "9 of them overruled"),
    ("tokens_per_round",): (1.0, "tokens_per_round is 1.0"),
    ("draft_acceptance_rate",): (0.123, "draft_acceptance_rate is 0.123"),
    ("draft_calls_per_token",): (0.5, "draft_calls_per_token is 0.5"),
    ("target_calls_per_token",): (0.9, "target_calls_per_token is 0.9"),
    ("verify_ms",): (1e4, "total_s"),
    ("total_s",): (100.0, "total_s is 100.0"),
    ("decode_s",): (100.0, "decode_s is 100.0"),
    ("tokens_per_s",): (1e6, "tokens_per_s"),
    ("decode_tokens_per_s",): (1e6, "decode_tokens_per_s is"),
    ("ttft_s",): (100.0, "ttft_s"),
    ("judge", "judge_accept_rate"): (0.9, "judge.judge_accept_rate is 0.9"),
    ("judge", "target_fallback_rate"): (0.9, "judge.target_fallback_rate is 0.9"),
    ("judge", "fallbacks"): (99, "judge.fallbacks is 99"),
    ("judge",): (None, "round 0 judged"),
    ("rounds", "judged", 0): (4, "round 0 judged 4 of 4 drafted tokens and kept"),
    ("rounds", "leaves", 0): (2, "round 0 has 2 leaves, but 4 drafted tokens, 4 deep"),
    ("tree", "effective_parallelism"): (9.0, "tree.effective_parallelism is 9.0"),
    ("tree", "max_active_branches"): (9, "tree.max_active_branches is 9"),
    ("tree", "branch_prune_rate"): (0.9, "tree.branch_prune_rate is 0.9"),
    ("exact_match", "trials"): (99, "exact_match.trials is 99"),
    ("energy_net_j",): (9.0, "summary of lossy: energy_net_j_per_token"),
    ("tree", "nodes"): (99, "tree.nodes is 99"),
    ("tree", "nodes_per_round"): (99.0, "tree.nodes_per_round is 99.0"),
    ("tree", "depth"): (0.5, "tree.depth is 0.5"),
    ("tree",): (None, "round 0 pruned 5 branches, but drafted a chain"),
    ("rounds", "over_budget", 0): (9, "tree.branch_prune_rate is"),
    ("rounds", "cut_by", 0): ("eos", "cut by 'eos'"),
    ("rounds", "depth", 0): (99, "round 0 is 99 deep"),
    ("identical_to_baseline",): (True, "first_divergence is there though identical_to_baseline is true"),
    ("is_exact",): (True, "lossy/0/0: is_exact is true, but false holds of topk"),
    ("algorithm",): ("fuzzy", 'lossy/0/0: algorithm is "fuzzy", but "topk" follows from the header'),
    ("prompt_source",): ("p1", 'lossy/0/0: prompt_source is "p1", but "p0"'),
    ("prompt_category",): ("code", 'lossy/0/0: prompt_category is "code", but ""'),
    ("batch_index",): (1, "lossy/0/0: batch_index is 1, but 0 follows from the header"),
    ("batch_size",): (2, "lossy/0/0: batch_size is 2, but 1 follows from the header"),
    ("order",): (999, "lossy/0/0: order is 999, expected below the number of methods that run, 3"),
    ("timestamp_utc",): ("2026-99-99T00:00:00Z", "timestamp_utc is '2026-99-99T00:00:00Z', expected a date and time"),
    ("first_divergence",): (None, "first_divergence is null though identical_to_baseline is false"),
    ("output_sha256",): (LINES[1]["output_sha256"], "identical_to_baseline is false, but output_sha256 equals"),
    ("prompt_tokens",): (6, "lossy/0/0: prompt_tokens is 6, but 7"),
    ("batch_row",): (1, "batch_row is 1"),
    ("error",): ("no", "error is 'no'"),
    ("quality",): ({"mean_logp_nats": -5.0, "mean_rank": 1.5, "argmax_share": 0.5}, "summary of lossy"),
}


def test_strict_finds_numbers_that_do_not_agree(tmp_path: Path) -> None:
    assert LINES[2]["method"] == "lossy"
    for path, (value, expected) in TAMPERED.items():
        spoilt = edited(2, **changed(LINES[2], path, value))
        assert found_in(tmp_path, spoilt, strict=False) == [], path
        assert expected in strict(tmp_path, spoilt), path


def test_strict_finds_a_summary_that_does_not_follow_or_is_missing_and_takes_the_last_of_each(tmp_path: Path) -> None:
    summary = LINES[-1]
    begun = [*LINES[:-1], summary | {"runs_ok": 7}, LINES[at("y/4/0")]]
    assert strict(tmp_path, [*begun, *LINES[-4:]]) == ""
    expected = f"summary of {summary['method']}: runs_ok does not follow from the records"
    assert found_in(tmp_path, begun) == [expected]
    assert "is missing" in found_in(tmp_path, LINES[:-1])[0]
    # A finished file has summaries, and an unfinished one need not.
    records = [line for line in LINES if line["kind"] != "decode_summary"]
    assert "summary of lossy is missing" in strict(tmp_path, records)
    assert strict(tmp_path, records[:-1]) == ""


def at(key: str) -> int:
    """Where a record stands in LINES."""
    return next(i for i, r in enumerate(LINES) if r.get("resume_key") == key)


def slower(record, seconds_later: int = 0, factor: int = 2):
    """The same measurement with times that are so many times as long."""
    found = {n: factor * v for n, v in record.items() if n.endswith("_ms") or n in ("ttft_s", "total_s", "decode_s")}
    found |= {n: record[n] / factor for n in ("tokens_per_s", "decode_tokens_per_s")}
    return record | found | {"timestamp_utc": f"2026-01-02T03:04:{5 + seconds_later:02}+00:00"}


def test_strict_finds_a_record_that_is_there_twice(tmp_path: Path) -> None:
    methods = [m for m in LINES[0]["parameters"]["methods"] if m["name"] != "y"]
    whole = [header(methods=methods), *(r for r in LINES[1:] if r.get("method") != "y")]
    assert strict(tmp_path, finished(*whole)) == ""
    for key, seconds_later in product(("baseline/0/0", "lossy/4/0", "x/0/0"), (0, 9)):
        place = next(i for i, r in enumerate(whole) if r.get("resume_key") == key)
        assert f"{key} is there already" in strict(tmp_path, [*whole[: place + 1], whole[place], *whole[place + 1 :]])
        again = whole[place] if key == "x/0/0" else slower(whole[place], seconds_later)
        found = strict(tmp_path, finished(*whole, again))
        assert f"line {1 + len(whole) - 3}: {key} is there already, and was no failure" in found


def test_a_turn_that_was_cut_short_or_failed_may_be_there_again_as_a_whole(tmp_path: Path) -> None:
    records = batched()[:5]
    again = [slower(r, 9) for r in records[1:]]
    # Killed behind the first, the third and, once more, the first record; then written as a whole.
    for cuts in ((1,), (3,), (3, 1)):
        body = [slower(r, 3 + i) for i, cut in enumerate(cuts) for r in records[1 : cut + 1]]
        assert strict(tmp_path, finished(records[0], *body, *again)) == ""
    # Behind the third, but then not as a whole: nobody writes that.
    patched = finished(*records[:4], slower(records[3], 9), slower(records[4], 9))
    assert "baseline/0/0: others of its turn were measured again, but not all" in strict(tmp_path, patched)
    at_once = finished(*records[:2], *map(slower, records[1:]))
    assert "baseline/0/0 is there already" in strict(tmp_path, at_once)
    # A failure is followed by another line of its key.
    failure = LINES[at("y/4/0")]
    turn = [slower(LINES[at(f"{name}/4/0")], 9) for name in ("baseline", "lossy")]
    later = failure | {"timestamp_utc": turn[0]["timestamp_utc"]}
    assert strict(tmp_path, finished(*LINES, *turn, later)) == ""
    assert strict(tmp_path, finished(*LINES, failure)) == ""
    # A line that was cut out is measured again behind the summaries.
    turn = [slower(LINES[at(f"{name}/2/0")], 9) for name in ("baseline", "lossy")]
    later = LINES[at("y/2/0")] | {"timestamp_utc": turn[0]["timestamp_utc"]}
    cut = [r for r in LINES if r.get("resume_key") != "lossy/2/0"]
    assert strict(tmp_path, [*cut, *turn, later, *finished(*cut, *turn, later)[-len(METHODS) :]]) == ""


def test_strict_finds_summaries_that_are_there_twice_or_not_behind_the_records(tmp_path: Path) -> None:
    count = len(METHODS)
    twice = [*LINES, LINES[-1]]
    assert f"line {len(twice)}: summary of {LINES[-1]['method']} is there already" in strict(tmp_path, twice)
    # Killed between them, all are written again.
    assert strict(tmp_path, [*LINES[:-1], *LINES[-count:]]) == ""
    early = [*LINES[: -count - 1], *LINES[-count:], LINES[-count - 1]]
    assert "is not behind all records" in strict(tmp_path, early)
    moved = [LINES[0], LINES[-1], *LINES[1:-1]]
    assert f"line 2: summary of {LINES[-1]['method']} is not behind all records" in strict(tmp_path, moved)


# Lines of which one was changed, and what --strict says of them.
STRAY = {
    "line 1: created_utc is '2026-02-30T00:00:00+00:00', expected a date and time that exist": edited(
        0, created_utc="2026-02-30T00:00:00+00:00"
    ),
    "lossy/0/0: order is 0, but baseline took that place": edited(2, order=0),
    "lossy/0/0: identical_to_baseline is true, but output_sha256 differs from the baseline's": edited(
        2, identical_to_baseline=True, first_divergence=None
    ),
    "lossy/5/0: prompt_index is 5, expected below prompt_count": edited(2, prompt_index=5, resume_key="lossy/5/0"),
    "lossy/0/5: run is 5, expected below runs": edited(2, run=5, resume_key="lossy/0/5"),
    "round 0 is 1 deep, but drafted a chain of 0": edited(1, **changed(LINES[1], ("rounds", "depth", 0), 1)),
}
NOT_HASHED = [("seed", 1), ("max_new_tokens", 9), ("more", None), ("config_sha256", SHA)]
TOO_LONG = [("total_s",), ("generated_tokens",), ("prompt_tokens",), ("rounds", "drafted", 0)]


def test_strict_finds_what_one_line_alone_does_not_tell(tmp_path: Path) -> None:
    assert LINES[1]["tree"] is None
    for expected, records in STRAY.items():
        assert expected in strict(tmp_path, records)
    for name, value in NOT_HASHED:
        spoilt = edited(0, **changed(LINES[0], ("parameters", name), value))
        assert "line 1: config_sha256 does not follow" in strict(tmp_path, spoilt), name
    for path in TOO_LONG:
        found = strict(tmp_path, edited(2, **changed(LINES[2], path, 10**400)))
        assert "expected a number of at most 64 bits" in found, path
    assert strict(tmp_path, LINES[:1]) == "no records"
    assert found_in(tmp_path, LINES[:1], strict=False) == []
    # A divergence that could not be asked for is told by the note.
    noted = edited(2, first_divergence=None, note="first_divergence: OutOfMemoryError: no")
    assert strict(tmp_path, finished(*noted)) == ""


def test_strict_finds_a_method_that_nobody_asked_for_and_one_that_is_none(tmp_path: Path) -> None:
    def renamed(record, name: str, algorithm: str):
        key = {"resume_key": record["resume_key"].replace("lossy", name)} if "resume_key" in record else {}
        return record | {"method": name, "algorithm": algorithm} | key if record.get("method") == "lossy" else record

    other = [renamed(r, "other", "topk") for r in LINES]
    assert 'algorithm is "topk", but null follows from the header' in strict(tmp_path, other)
    methods = [m | {"method": "nonsense"} if m["name"] == "lossy" else m for m in LINES[0]["parameters"]["methods"]]
    body = [renamed(r, "lossy", "nonsense") for r in LINES[1:]]
    assert "algorithm is 'nonsense', expected a decoding method" in strict(tmp_path, [header(methods=methods), *body])


def test_strict_finds_rows_of_a_batch_that_are_of_different_turns(tmp_path: Path) -> None:
    lines = batched()
    assert strict(tmp_path, lines) == ""
    row = lines[4]
    assert (row["resume_key"], row["batch_row"]) == ("lossy/1/0", 1)
    changes = {"total_s": slower(row, factor=10), "timestamp_utc": slower(row, 1, factor=1)}
    changes |= {name: row | {name: v} for name, v in (("order", 0), ("memory_peak_bytes", 11), ("idle_power_w", 9.0))}
    for name, other in changes.items():
        found = strict(tmp_path, [*lines[:4], other, *lines[5:]])
        assert f"lossy/1/0: {name} is" in found
        assert "in another record of that batch" in found
    # Interrupted, a turn that is measured again stands beside what it did not replace yet.
    assert strict(tmp_path, [*lines[:2], lines[3], slower(row, 1, factor=10)]) == ""


def test_what_was_accepted_behind_an_end_of_sequence_does_not_count() -> None:
    rng = np.random.default_rng(0)
    whole = measured(rng, is_plain=True)
    cut = Round(start=4, drafted=4, accepted=4, committed=2, cut_by="eos", draft_passes=4, depth=4, leaves=1)
    found = as_record(origin("x", 0), replace(whole, rounds=[*whole.rounds, cut], tokens=[1] * 6, identical=None))
    assert found["rounds"]["accepted"][-1] == 2
    assert found["draft_acceptance_rate"] == 2 / 4
    assert found["tokens_per_round"] == 6 / 5
    assert list(disagreements(json.loads(to_line(found)))) == []
