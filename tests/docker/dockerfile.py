"""Dockerfiles as lists of instructions, and what of a folder the build is sent, by .dockerignore."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
IGNORED = ROOT / ".dockerignore"
# What `wanted` and `proof` follow; another instruction, or a flag of one, has to be taught to both first.
KNOWN = ("FROM", "ARG", "ENV", "LABEL", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD")
PAIR = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)')


class Instruction(NamedTuple):
    """One instruction, its lines joined."""

    word: str
    text: str

    def pairs(self, variables: Mapping[str, str] = {}) -> dict[str, str]:
        """Return names and values of ENV, LABEL and ARG; an ARG without a value has ""."""
        said = self.text if "=" in self.text else f"{self.text}="
        return {name: filled(value.strip('"'), variables) for name, value in PAIR.findall(said)}

    def words(self) -> list[str]:
        """Return the words of ENTRYPOINT, CMD and VOLUME, which are JSON."""
        found: list[str] = json.loads(self.text)
        return found


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in; one that is not known is an error."""
    return Template(text).substitute(variables)


def read(text: str) -> Iterator[Instruction]:
    """Yield the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for whole in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = whole.partition(" ")
        if word not in KNOWN:
            raise ValueError(f"{whole[:60]!r}: expected one of {', '.join(KNOWN)}")
        yield Instruction(word, rest.strip())


def copied(instruction: Instruction) -> tuple[str, list[str], str]:
    """Return the stage that COPY takes from ("" where it is the folder), its sources and their place."""
    flags, *names = re.fullmatch(r"(?:--from=(\w+) )?(.*)", instruction.text).groups()  # type: ignore[union-attr]
    *sources, place = names[0].split()
    return flags or "", sources, place


def pattern(line: str) -> re.Pattern[str]:
    """Return a line of .dockerignore as a pattern of a path."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    return re.compile("".join(parts.get(part, re.escape(part)) for part in found))


def is_sent(name: str, ignored: str) -> bool:
    """Whether a file of the folder is sent to the build: of lines that fit it or a folder above, the last decides."""
    above = name.split("/")
    paths, sent = ["/".join(above[: n + 1]) for n in range(len(above))], True
    for line in filter(None, (line.strip() for line in ignored.splitlines())):
        if not line.startswith("#") and any(map(pattern(line.removeprefix("!")).fullmatch, paths)):
            sent = line.startswith("!")
    return sent
