"""What commands that train share: several processes by torchrun, and a log for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from cds_service.cli.errors import CommandError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def processes(device: str) -> Iterator[tuple[int, str]]:
    """This process's rank and its device; a process group is up meanwhile where torchrun started several."""
    if not dist.is_torchelastic_launched():
        yield 0, device
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        if device == "cuda":
            device = f"cuda:{dist.get_rank() % torch.cuda.device_count()}"
            torch.cuda.set_device(device)
        yield dist.get_rank(), device
        dist.barrier()  # whoever is done first would take the connection from under the others
    finally:
        dist.destroy_process_group()


def log_writer(folder: Path) -> SummaryWriter:
    """A writer of TensorBoard logs. Raises CommandError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise CommandError("--tensorboard needs TensorBoard: pip install 'ordersight[train]'") from None
    return SummaryWriter(str(folder))
