"""The devices of a run, from its flags: how many processes there are, and what each device holds."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from jaxloss._checks import check_integer
from jaxloss.model5.config import Model5Config
from jaxloss.training import make_mesh


@dataclass(frozen=True)
class MeshConfig:
    """How the devices share the work; by default each takes a part of the batch and holds the whole model.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range, or one of several processes does not say which it is.
    """

    data: int | None = None
    """Parts of the batch, times mesh.fsdp; None means as many as there are devices left and divide it."""
    fsdp: int = 1
    """Parts that parameters and AdamW's averages are split into; each takes its own part of the batch."""
    tensor: int = 1
    """Parts that heads, MLP and vocabulary are split into."""
    coordinator: str | None = None
    """host:port of process 0, the same for all processes; auto on SLURM, Open MPI and TPU slices, which know
    the processes; None for a single one."""
    num_processes: int | None = None
    """Number of processes, beside mesh.coordinator."""
    process_id: int | None = None
    """Which of them this one is, from 0."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor", "num_processes"):
            if getattr(self, name) is not None:
                check_integer(f"mesh.{name}", getattr(self, name), low=1)
        has_address = self.coordinator not in (None, "auto")
        given = [self.num_processes is not None, self.process_id is not None]
        if has_address and not all(given):
            raise ValueError("mesh.coordinator host:port needs mesh.num-processes and mesh.process-id")
        if any(given) and not has_address:
            raise ValueError("mesh.num-processes and mesh.process-id need mesh.coordinator host:port")
        if self.process_id is not None and self.num_processes is not None:
            check_integer("mesh.process_id", self.process_id, low=0, high=self.num_processes - 1)

    def join_processes(self, folder: str | None) -> None:
        """Meet the run's other processes; must come before anything else that JAX does.

        Args:
            folder: the run's, which all processes see.

        Raises:
            ValueError: no folder is named, or they did not meet.
        """
        if self.coordinator is None or jax.distributed.is_initialized():
            return
        if folder is None:
            raise ValueError("mesh.coordinator needs --out, a folder that all processes see")
        address = None if self.coordinator == "auto" else self.coordinator
        # It takes SIGTERM away from the process, which `EarlyStop` obeys while there is something to save.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(address, self.num_processes, self.process_id)
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ValueError(f"mesh.coordinator {self.coordinator}: {first_line}") from error
        if jax.process_index() > 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what process 0 says is enough

    def make(self, model: Model5Config, batch_size: int) -> Mesh:
        """The mesh for a model and a batch.

        Raises:
            ValueError: it does not fit devices, heads, vocabulary or batch.
        """
        if model.num_heads % self.tensor:
            raise ValueError(f"mesh.tensor must divide the {model.num_heads} heads; got {self.tensor}")
        if model.vocab_size % self.tensor:
            padded = -(-model.vocab_size // self.tensor) * self.tensor
            raise ValueError(
                f"mesh.tensor must divide the vocabulary of {model.vocab_size:,}; got {self.tensor}: "
                f"pad the vocabulary with --model.vocab-size {padded}"
            )
        return make_mesh(batch_size=batch_size, data=self.data, fsdp=self.fsdp, tensor=self.tensor)


def describe_mesh(mesh: Mesh) -> str:
    """The devices that take part, and how: "6 of 8 x gpu: data 3, tensor 2"."""
    axes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    devices = f"{mesh.size} of {jax.device_count()} x {jax.default_backend()}"
    return devices + (f": {', '.join(axes)}" if axes else "")
