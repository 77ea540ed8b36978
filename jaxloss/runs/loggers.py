"""Where a run's scalars can be watched: TensorBoard, Weights & Biases, or anything else that takes them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from jaxloss._checks import check_choice
from jaxloss.runs.folder import RunFolder

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Logger(Protocol):
    """Takes the scalars of a run while it goes on."""

    first_step: int
    """The first step that it lacks: a resumed run begins to tell it there, before or after its checkpoint."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take the scalars of a step, by name; steps come in their order, one perhaps several times."""

    def close(self) -> None:
        """Bring everything to where it goes; nothing follows."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise unless these are loggers whose packages are installed.

    >>> check_loggers(["tensorbord"])
    Traceback (most recent call last):
        ...
    ValueError: --log must be one of 'tensorboard', 'wandb'; got 'tensorbord'. Did you mean 'tensorboard'?
    """
    for name in names:
        check_choice("--log", name, tuple(_PACKAGES))
        found = importlib.util.find_spec(_PACKAGES[name])
        # wandb leaves folders of its name, which Python takes for packages without a file.
        if found is None or found.origin is None:
            raise ValueError(f"--log {name} needs a package: pip install {_PACKAGES[name]}")


def open_loggers(
    names: Sequence[str], folder: RunFolder, config: Mapping[str, Any], *, step: int
) -> list[Logger]:
    """The loggers of a run; of several processes, those of the first.

    Args:
        names: as `check_loggers` takes them.
        folder: the run's; each logger goes on with what it has there.
        config: the run's settings, to be shown beside its curves.
        step: number of updates that were made before.

    Raises:
        ValueError: Weights & Biases refuses.
    """
    if jax.process_index() > 0:
        return []
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoard(folder.file("tensorboard"), step),
        "wandb": lambda: WeightsAndBiases(folder, config),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


class TensorBoard:
    """Writes a file that TensorBoard reads, each step handed to the system at once.

    Args:
        folder: made if it is not there.
        step: number of updates that were made before: TensorBoard forgets what the folder has of later ones,
            and is told what it lacks of earlier ones, made while nothing was written here.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(exist_ok=True)
        self.first_step = min(step + 1, _last_step(folder))
        # TensorBoard reads the files of a folder in the order of their names.
        now, host = int(time.time()), socket.gethostname()
        self._path = folder / f"events.out.tfevents.{now}.{host}.{self.first_step}"
        self._write(file_version="brain.Event:2")
        self._write(step=self.first_step, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a step."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        # SummaryWriter has a queue, which a killed run loses; EventsWriter waits 2 ms for the disk.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), **content).SerializeToString()
        size = struct.pack("<Q", len(event))
        sums = [struct.pack("<I", masked_crc32c(data)) for data in (size, event)]
        with self._path.open("ab") as stream:
            stream.write(size + sums[0] + event + sums[1])

    def close(self) -> None:
        """Nothing is left to do."""


def _last_step(folder: Path) -> int:
    """The last step that the event files of a folder tell of, which a killed run perhaps told in part."""
    from tensorboardX.proto.event_pb2 import Event

    last = 0
    for path in sorted(folder.glob("events.out.tfevents.*"))[-1:]:
        with path.open("rb") as stream:
            while len(size := stream.read(12)) == 12:
                content = stream.read(struct.unpack_from("<Q", size)[0])
                if len(stream.read(4)) == 4:
                    last = max(last, Event.FromString(content).step)
    return last


class WeightsAndBiases:
    """Sends scalars to Weights & Biases, or keeps them for `wandb sync` where `WANDB_MODE` is offline.

    A run that is resumed stays the same run there. The server takes no step twice: what the run makes again
    after its checkpoint, which is the same to the last bit, is not sent. Offline, each part of a run is kept
    whole, from its first step, since what wandb holds of a process that is killed is lost.

    Args:
        folder: of the run; gets wandb's own files, and the run's id in `wandb.json`.
        config: the run's settings.

    Raises:
        ValueError: nobody is logged in, or the server cannot be reached.
    """

    def __init__(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        import wandb

        file = folder.file("wandb.json")
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        try:
            is_online = wandb.setup().settings.mode == "online"
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "jaxloss"),
                id=earlier.get("id"),
                name=folder.path.name,
                dir=folder.path,
                config=dict(config),
                resume="allow" if is_online else None,
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise ValueError(f"--log wandb: {error} (offline: WANDB_MODE=offline)") from error
        self.first_step = self._run.step
        folder.write_json(file.name, {"id": self._run.id})

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send the scalars of a step."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
