"""One vocabulary over all commands: synonyms, numbers as people type them, errors that say where and what."""

from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.ranges import in_milliseconds, list_in_milliseconds, number_in, parse_values, quantity
from simulator.ground.vocabulary import SPOKEN, SYNONYMS, Seconds, Spoken, commands, flags_of, in_own_words, own_name

COMMANDS = dict(commands())
HAVE = [
    (name, flag)
    for name, command in COMMANDS.items()
    for group in SYNONYMS
    for flag in group
    if own_name(flag, flags_of(command))
]


def test_every_command_is_walked_and_no_name_means_two_things() -> None:
    assert {
        "simulate",
        "sweep",
        "shapes list",
        "profiles new",
        "bench-decode time-passes",
        "validate",
    } <= COMMANDS.keys()
    flags = [flag for group in SYNONYMS for flag in group]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(("name", "flag"), HAVE)
def test_an_option_is_taken_by_any_of_its_names(name: str, flag: str) -> None:
    command = COMMANDS[name]
    own = own_name(flag, flags_of(command))
    option = flags_of(command)[own]
    if flag == "--out-dir" and own == "--out":
        return
    values = [] if option.is_flag else ["7"]
    assert in_own_words(command, [flag, *values], interspersed=True) == ["=".join([own, *values])]
    assert in_own_words(command, ["=".join([flag, *values])], interspersed=True) == ["=".join([own, *values])]


def test_what_the_table_promises_is_there() -> None:
    """Names as the README's table of words has them, on every command that has the thing."""
    for name, words in {
        "simulate": "--draft-n --k --num-speculative-tokens --runs --repeats --concurrency --trace-out --target --out",
        "sweep": "--k --replications --repeats --concurrency --draft",
        "measure-acceptance": "--draftN --out --out-dir --prompts --format --dataset --batch",
        "bench-decode": "--draftN --replications --dataset --dataset-format --prompts --format --trace-out --events",
        "bench-decode time-passes": "--num-speculative-tokens --runs --replications --target",
        "probe-gpu": "--k --out-dir",
        "bench-sampling": "--draft-n --concurrency",
        "validate": "--draftN --replications --out --out-dir",
        "calibrate": "--out-dir",
        "bench-server": "--request-rate --max-concurrency --num-prompts --random-input-len --k",
    }.items():
        own = flags_of(COMMANDS[name])
        assert [word for word in words.split() if own_name(word, own) is None] == [], name
    # A profile is a device, everywhere.
    for name, command in COMMANDS.items():
        option = flags_of(command).get("--profile")
        assert option is None or "race" not in (option.help or ""), name


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_and_choices_of_every_command_are_refused_in_one_voice(name: str) -> None:
    command = COMMANDS[name]
    for parameter in command.params:
        assert type(parameter.type) not in SPOKEN
        if isinstance(parameter.type, Spoken | click.Choice):
            with pytest.raises(click.BadParameter, match="'1x' is not allowed, expected "):
                parameter.type.convert("1x", parameter, None)


def test_errors_name_option_value_and_what_is_allowed(run, user_error) -> None:
    for line, message in (
        ("simulate --seed 1.5", "--seed: 1.5 is not allowed, expected a whole number of at least 0"),
        ("simulate --seed inf", "--seed: inf is not allowed, expected a whole number of at least 0"),
        ("measure-acceptance --max-prompts inf", "--max-prompts: inf is not allowed, expected a whole number"),
        ("sweep --draftN inf", "--draftN: inf is not allowed, expected a whole number from 1 to 1024"),
        ("sweep --draftN nan", "--draftN: nan is not allowed, expected a whole number from 1 to 1024"),
        ("simulate --draftN 4 --k 8", "--k: 8 beside --draftN 4, which means the same, expected one of them"),
        ("sweep --concurrency=64 --batch 8", "--batch: 8 beside --concurrency 64, which means the same"),
        ("sweep --batch=64 --batch 8", "--batch: 8 beside --batch 64, expected one of them"),
        ("simulate --overlap --no-overlap", "--no-overlap: beside --overlap, expected one of them"),
        ("simulate --baseline-tpot 25GB", "--baseline-tpot: '25GB' is not allowed, expected a number above 0"),
        (
            "measure-acceptance import --from vllm-lgo x",
            "'vllm-lgo' is not allowed, expected one of 11, nearest: vllm-log, ",
        ),
        (
            "simulate --draftN 3,4",
            "--draftN: '3,4' is not allowed, expected a whole number from 1 to 1024; sweep takes",
        ),
        ("simulate --alpha 0,7", "--alpha: '0,7' is not allowed, expected a number from 0 to 1; 0.7?"),
        ("sweep --draft-cost 50%:90%:10%", "--draft-cost: 50%:90%:10% is not a fraction; 0.5:0.9:0.1?"),
        ("simulate --alpha 130%", "--alpha: 1.3 is not allowed, expected a number from 0 to 1"),
        ("simulate -k 4", "-k: no such option of simulate, expected --k"),
        ("sweep --draftN 1 2 3", "sweep: 2 3: not expected here; a value with spaces needs quotes, a list commas"),
        ("shapes", "shapes: no command, expected one of list"),
        ("specsim help", "specsim: help: no such command, expected --help"),
        ("probe-gpu --only empty,gemm", "--only: 'gemm' is no probe, expected one of 14"),
        ("calibrate --from-passes v.log", "--from-passes v.log: no such file"),
        ("simulate --tp 2k", "--tp: 2k is not allowed, expected a whole number from 1 to 1024"),
        ("simulate --alpha 70", "--alpha: 70 is not a fraction; 0.7?"),
        ("sweep --alpha 50:70:5", "--alpha: 50 is not a fraction; 0.5?"),
        ("measure-acceptance --top-p 190%", "--top-p: 190% is not"),
        ("simulate --baseline-tpot 5%", "--baseline-tpot: "),
        ("simulate --plot x.png", "--plot x.png: draws a comparison, expected --compare beside it; sweep "),
        ("simulate --device h100", "--device: no such option of simulate, expected --profile"),
        ("sweep --gpu h100", "--gpu: no such option of sweep, expected --profile"),
        ("simulate --model x", "--model: no such option of simulate, expected --target-model or --draft-model"),
        ("profiles new x --memory 8000000TB --bandwidth 1TB/s --bf16 1TFLOP/s", "--memory: '8000000TB' is not"),
        ("profiles new x --memory 8 --bandwidth 1TB/s --bf16 1TFLOP/s", "--memory: '8' is not"),
        ("profiles new x --memory 8B --bandwidth 1TB/s --bf16 1TFLOP/s", "from 1e+06 to 1e+15 B"),
        ("simulate --placement here", "--placement: 'here' is not allowed, expected one of same, separate"),
        ("simulate --seed", "--seed: requires an argument"),
        ("simulate --hist nothing.json", "--hist nothing.json: no such file"),
        ("simulate --events /proc/x --total 9", "--events /proc/x: cannot be written"),
        (
            "simulate --prompts x",
            "--prompts: no such option of simulate; validate, bench-server, bench-decode have it",
        ),
        ("bench-decode --profile x.json", "a Chrome trace is --trace-out"),
        ("simulate --profil x", "--profil: no such option of simulate; nearest: --profile"),
        ("sweep --out-dir here", "--out-dir here: is a folder, and this command names no file in it"),
    ):
        command, *words = line.split()
        user_error(run(command, *words), f"{command}: {message}" if message.startswith("--") else message)


def test_what_is_wrong_is_said_under_the_name_that_was_typed(run, user_error) -> None:
    for line, message in (
        ("simulate --concurrency 0", "--concurrency: 0 is not allowed, expected a whole number from 1 to 1000000"),
        ("sweep --concurrency 0,1", "--concurrency: 0 is not allowed, expected a whole number from 1 to 1000000"),
        ("specsim simulate --runs 0", "--runs: 0 is not allowed"),
        ("simulate --max-num-seqs 4", "--max-num-seqs: of a load, expected --concurrency, --isl or --osl beside it"),
        ("simulate --k", "--k: requires an argument"),
    ):
        command, *words = line.split()
        user_error(run(command, *words), f": {message}")


def test_a_word_that_is_a_value_stays_one() -> None:
    own = COMMANDS["measure-acceptance"]
    typed = ["--system-prompt", "--draftN", "--draftN", "3", "--json", "import", "--draftN", "4"]
    changed = ["--system-prompt=--draftN", "--k=3", "--json", "import", "--draftN", "4"]
    assert in_own_words(own, typed, interspersed=False) == changed


def test_an_option_said_twice_alike_is_said_once_and_one_that_repeats_is_kept() -> None:
    for typed in (["--k", "8", "--draft-n=8"], ["--k", "8", "--k", "8"]):
        assert in_own_words(COMMANDS["simulate"], typed, interspersed=True)[-1].endswith("=8")
    typed = ["--published-file=a", "--published-file=b"]
    assert in_own_words(COMMANDS["validate"], typed, interspersed=True) == typed


@given(st.integers(1, 10**6), st.sampled_from([("ms", 1), (" ms", 1), ("s", 1000), ("us", 0.001), ("µs", 0.001)]))
def test_times_may_have_a_unit(value: int, unit: tuple[str, float]) -> None:
    assert Decimal(in_milliseconds(f"{value}{unit[0]}")) == value * Decimal(str(unit[1]))
    assert in_milliseconds(str(value)) == str(value)
    assert list_in_milliseconds(f"0:{value}{unit[0]}:1,2ms").startswith(
        f"0:{in_milliseconds(str(value) + unit[0])}:1,2"
    )
    assert Seconds().convert(f"{value}{unit[0]}", None, None) == pytest.approx(value * unit[1] / 1000)


def test_a_folder_holds_the_file_that_is_written_by_default() -> None:
    words = in_own_words(COMMANDS["probe-gpu"], ["--out-dir", "here"], interspersed=True)
    assert words == ["--out=here/probe.json"]


@given(
    st.integers(0, 10**6),
    st.sampled_from([("k", 10**3), ("K", 10**3), ("M", 10**6), ("Ki", 2**10), ("", 1), ("e3", 10**3)]),
)
def test_large_numbers_may_be_short(value: int, scale: tuple[str, int]) -> None:
    assert number_in(f"{value}{scale[0]}") == value * scale[1]


def test_lists_and_ranges_take_short_numbers() -> None:
    assert parse_values("--context", "1k:3k:1k,64Ki").tolist() == [1000, 2000, 3000, 65536]
    assert parse_values("--alpha", "50%:90%:20%,0.6", percent=True).tolist() == [0.5, 0.6, 0.7, 0.9]
    assert number_in("70 %", percent=True) == number_in("0.7")
    assert number_in("70%") is number_in("%", percent=True) is number_in("x%", percent=True) is None
    assert quantity("--memory", "1.5TiB", "B", "") == 1.5 * 2**40
    assert quantity("--bf16", "2.25 PFLOPS", "FLOP/s", "") == 2.25e15
