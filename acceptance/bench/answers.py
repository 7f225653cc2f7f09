"""Answers of every arm, saved as MT-Bench's judges read them: DIR/model_answer/MODEL.jsonl, a question a line.

The first answer is the one that was timed. Further turns are decoded behind the clock, by the same arm, behind its own
answers. The last line of a question holds.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from acceptance.decoders.batch import Task
from acceptance.decoders.decoder import run as decode
from acceptance.measure.plan import overrun, unreadable
from acceptance.models.model import Pair
from acceptance.models.static_context import no_captures
from acceptance.results.records import resume_key
from acceptance.text.conversation import Framing, answer_text, tokens_before
from acceptance.text.prompts import Prompt
from simulator.ground.artefacts import UserError, created_utc, read_bytes, writing
from simulator.ground.fields import Field, parse_json
from simulator.ground.partial import make_folder

from .timed import Taken, reason_of
from .turns import Bench, Runnable, Turn, stream

# Behind run and prompt in the key of a stream: turns of a conversation; 1 is that of orders.
TURN_STREAM = 2
# What FastChat writes for an answer that could not be had.
FAILED = "ERROR"
ID_LETTERS = 22
KEYS = ("question_id", "answer_id", "model_id", "choices", "tstamp")

Line = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Answers:
    """Where answers go, and what is asked.

    folder: holds model_answer. name: of the target; with an arm's it names a model. prompts: of each index, all turns.
    beside: what answers are scored beside, by the source of a prompt, where a task has that. lines: by arm and prompt,
    the last of each. problems: turns that have no answer, and why.
    """

    folder: Path
    name: str
    pair: Pair
    framing: Framing
    prompts: Sequence[Prompt]
    beside: Mapping[str, str] = field(default_factory=dict)
    lines: dict[tuple[str, int], Line] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def model(self, arm: str) -> str:
        """Return what an arm on this target is called, as a file can be."""
        return re.sub(r"[^\w.-]+", "-", f"{self.name}-{arm}")

    def path(self, arm: str) -> Path:
        """Return the file of an arm."""
        return self.folder / "model_answer" / f"{self.model(arm)}.jsonl"

    @property
    def references(self) -> Path:
        """The file of what answers are scored beside, as MT-Bench has reference answers."""
        return self.folder / "reference_answer" / f"{self.model('reference')}.jsonl"

    def refuse_others(self, bench: Bench) -> None:
        """Refuse files that are there, before a run begins anew."""
        for path in [*(self.path(r.arm.name) for r in bench.running), *([self.references] if self.beside else [])]:
            if path.exists():
                raise UserError(f"--answers {path}: exists already (--force overwrites it)")

    def begin(self, bench: Bench, done: Collection[str], *, anew: bool) -> None:
        """Take up the answers to what is done already, unless a run begins anew.

        Raises:
            UserError: A file lacks an answer to what is done, or is no file of answers.
        """
        questions = {question_id(p): i for i, p in enumerate(self.prompts)}
        for name in [r.arm.name for r in bench.running]:
            path = self.path(name)
            there = {} if anew or not path.exists() else read_answers(path)
            self.lines |= {(name, questions[q]): line for q, line in there.items() if q in questions}
            answered = {i for arm, i in self.lines if arm == name}
            missing = [i for i in questions.values() if resume_key(name, i, 0) in done and i not in answered]
            if missing:
                raise UserError(
                    f"--answers {path}: lacks {len(missing)} answers to what is measured already, expected the file "
                    "that this run has begun, or --force to begin anew"
                )
        for runnable in bench.running:
            self.write(runnable.arm.name)

    def take(self, bench: Bench, turn: Turn, taken: Mapping[str, Taken | str]) -> None:
        """Write down what a turn's arms answer, further turns of the conversation too."""
        for runnable in turn.order:
            outcome = taken[runnable.arm.name]
            if not isinstance(outcome, Taken):
                continue
            texts = self.conversations(bench, runnable, turn, [d.tokens for d in outcome.decoded])
            with self.path(runnable.arm.name).open("ab") as file:
                for index, answers in zip(turn.batch, texts, strict=True):
                    file.write(self.line(runnable.arm.name, index, turn.run, answers))

    def conversations(
        self, bench: Bench, runnable: Runnable, turn: Turn, first: Sequence[list[int]]
    ) -> list[list[str]]:
        """Return the answers to every turn of a batch; the first ones are there."""
        texts = [
            [answer_text(self.pair.tokenizer, bench.prompts[i], tokens)]
            for i, tokens in zip(turn.batch, first, strict=True)
        ]
        for number in range(1, max(len(self.prompts[i].turns) for i in turn.batch)):
            asked = [row for row, index in enumerate(turn.batch) if number < len(self.prompts[index].turns)]
            rngs = [stream(bench.settings.seed, turn.run, turn.batch[row], TURN_STREAM, number) for row in asked]
            before = [self.before(bench, self.prompts[turn.batch[row]], texts[row]) for row in asked]
            for row, text in zip(asked, self.written(bench, runnable, before, rngs), strict=True):
                texts[row].append(text)
        return texts

    def before(self, bench: Bench, prompt: Prompt, answers: list[str]) -> list[int]:
        """Return the tokens before the next answer of a conversation; none where it cannot be had."""
        number = len(answers) + 1
        try:
            before = tokens_before(self.pair.tokenizer, self.framing, prompt.turns[:number], answers)
            both = (before, before)
            why = unreadable(self.pair, both) or overrun(self.pair, both, bench.settings.max_new_tokens)
        except UserError as error:  # a template that takes one message and no more
            before, why = [], str(error)
        if why:
            self.problems.append(f"{prompt.source}, turn {number}: {why}")
        return [] if why else before

    def written(self, bench: Bench, runnable: Runnable, before: list[list[int]], rngs: list[Any]) -> list[str]:
        """Return what an arm writes behind some tokens, FAILED where there are none."""
        begin, rows = runnable.begin, [row for row, tokens in enumerate(before) if tokens]
        texts = [FAILED] * len(before)
        if begin is None or not rows:
            return texts
        rngs = [rngs[row] for row in rows]
        task = Task(rule=bench.settings.rule, max_new_tokens=bench.settings.max_new_tokens, rngs=rngs)
        try:
            with no_captures():
                decoded = decode(begin([before[row] for row in rows], task))
        except Exception as error:  # as a timed one: it must not stop the rest
            self.problems.append(f"{runnable.arm.name}: {reason_of(error)}")
            return texts
        for row, output in zip(rows, decoded, strict=True):
            texts[row] = answer_text(self.pair.tokenizer, before[row], output.tokens)
        return texts

    def line(self, arm: str, index: int, run: int, answers: list[str]) -> bytes:
        """Return the line of a question, with the answers of this run in place of what it had for it."""
        question, model = question_id(self.prompts[index]), self.model(arm)
        before = self.lines.get((arm, index), {"choices": []})["choices"]
        choices = [c for c in before if c["index"] != run] + [
            {"index": run, "turns": [text.strip() for text in answers]}
        ]
        self.lines[arm, index] = answer_of(question, model, answers, sorted(choices, key=lambda c: c["index"]))
        return as_line(self.lines[arm, index])

    def write_references(self) -> None:
        """Write what answers are scored beside, a line a question."""
        make_folder(self.references.parent)
        said = [(question_id(p), [self.beside[p.source]]) for p in self.prompts if p.source in self.beside]
        with writing(self.references, "wb", kept=True) as file:
            for question, turns in said:
                file.write(as_line(answer_of(question, "reference", turns, [{"index": 0, "turns": turns}])))

    def write(self, arm: str) -> None:
        """Write an arm's file anew, a line a question, in their order."""
        path = self.path(arm)
        make_folder(path.parent)
        with writing(path, "wb", kept=True) as file:
            file.writelines(as_line(self.lines[arm, i]) for i in range(len(self.prompts)) if (arm, i) in self.lines)

    def finish(self, bench: Bench) -> list[str]:
        """Leave one line a question; return what there is to say."""
        for runnable in bench.running:
            self.write(runnable.arm.name)
        said = [f"answers without a text: {len(self.problems)}, {self.problems[0]}"] if self.problems else []
        if self.beside:
            self.write_references()
            said.append(f"wrote what they are scored beside to {self.references}")
        return [*said, f"wrote answers of {len(bench.running)} models to {self.folder / 'model_answer'}"]


def question_id(prompt: Prompt) -> int | str:
    """Return a question's own id, a number where it is one."""
    return int(prompt.source) if prompt.source.isdecimal() else prompt.source


def answer_of(question: int | str, model: str, answers: list[str], choices: list[Any]) -> Line:
    """Return a model's answers to a question as FastChat writes them."""
    return {
        "question_id": question,
        "answer_id": hashlib.sha256(f"{model}/{question}/{answers}".encode()).hexdigest()[:ID_LETTERS],
        "model_id": model,
        "choices": choices,
        "tstamp": datetime.fromisoformat(created_utc()).timestamp(),
    }


def as_line(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def read_answers(path: Path) -> dict[int | str, Line]:
    """Return the last whole line of each question.

    Raises:
        UserError: The file cannot be read, or a line of it holds no answer.
    """
    found: dict[int | str, Line] = {}
    for number, text in enumerate(read_bytes(path).split(b"\n")[:-1], 1):
        try:
            line = Field(parse_json(text.decode()), path)
            for choice in line["choices"].elements():
                choice["index"].whole()
            found[line["question_id"].value] = {name: line.object()[name] for name in KEYS}
        except (ValueError, KeyError, TypeError, UserError):
            raise UserError(f"--answers {path}: line {number} is no answer to a question of MT-Bench") from None
    return found
