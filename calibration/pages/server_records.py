"""A file of requests of `bench-server --out` as the JSON that the command prints of it."""

from pathlib import Path
from typing import Any

from acceptance.results.journal import read_records
from acceptance.servers.server import Server
from calibration.servers.records import LOADED, read_load
from calibration.servers.report import cautions, result_json
from calibration.servers.results import results_of
from simulator.answers.scene import CLIENTS
from simulator.ground.artefacts import UserError


def load_as_json(path: Path) -> dict[str, Any]:
    """Return the figures of the blocks that came to their end.

    Raises:
        UserError: It is no such file, or none has ended.
    """
    load = read_load(path)
    if not load.ran:
        raise UserError(f"{path}: no block has come to its end, expected a load that was run")
    parameters = load.parameters
    # Keys of a header are sorted; blocks stand in the order in which arms were named.
    arms = {ran.part.arm: parameters["arms"][ran.part.arm].text() for ran in load.ran}
    values = sorted({ran.part.load for ran in load.ran})
    by_clients = parameters["load_kind"].text() == CLIENTS
    results = results_of(
        load.ran,
        {name: Server(name, url) for name, url in arms.items()},
        {name: load.models.get(name, "") for name in arms},
        api=parameters["api"].text(),
        clients={value: int(value) if by_clients else 0 for value in values},
        burstiness=parameters["burstiness"].number(),
        limits=(),
        k=None,
        seed=parameters["seed"].whole(),
    )
    header = read_records(path, LOADED)[0][0]
    found = result_json(results, (), parameters.object(), list(cautions(results)), load.broken)
    return found | {name: header[name] for name in ("created_utc", "environment", "tool_version") if name in header}
