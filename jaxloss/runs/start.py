"""The beginning of a run, once its input is known to be good."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from jaxloss.data import TokenData, describe
from jaxloss.model5 import num_params
from jaxloss.runs.folder import RunFolder
from jaxloss.runs.loggers import Logger, open_loggers
from jaxloss.runs.mesh import describe_mesh
from jaxloss.runs.text import wrap


def start_run(
    folder: RunFolder, config: Any, data: TokenData, mesh: Mesh, *, log: Sequence[str] = (), step: int = 0
) -> list[Logger]:
    """Make the run's folder, with its config and tokenizer, say what is trained, and open its loggers.

    Args:
        folder: not made yet, or that of a resumed run.
        config: the script's, whose field `model` has its final sizes.
        data: the text.
        mesh: the devices.
        log: names of the loggers.
        step: number of updates that were made before.

    Raises:
        ValueError: a logger refuses; no new folder is left behind.
    """
    folder.create()
    try:
        loggers = open_loggers(log, folder, dataclasses.asdict(config), step=step)
    except ValueError:
        folder.discard()
        raise
    folder.write_json("config.json", dataclasses.asdict(config))
    data.tokenizer.save(folder.file("tokenizer.json"))
    print(wrap(describe(data), indent=""))
    print(f"{num_params(config.model):,} parameters, {describe_mesh(mesh)}")
    return loggers
