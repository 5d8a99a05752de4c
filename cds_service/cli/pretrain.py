"""`cds-service pretrain`: the encoders learn from a site's own bulk FHIR export before any label is seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch.distributed as dist
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cds_service.cli.errors import CommandError
from cds_service.cli.processes import log_writer, processes
from cds_service.settings import Settings
from fhir_mappers.bulk import SOURCE, index_studies, open_export, site_source
from fhir_mappers.export import export
from fhir_mappers.sources import SourceError
from models.backbones.manifest import accept_licences
from models.config import ConfigError, load_preset
from models.data import ShardError, read_shard
from models.pretrain import Plan, PretrainingError
from models.pretrain import pretrain as run

COLUMNS = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def pretrain(
    bulk: Annotated[Path, typer.Argument(help="Folder of a bulk FHIR export: *.ndjson, one resource a line.")],
    out: Annotated[Path, typer.Option(help="Where the shard, the state and the pretrained encoders go.")],
    dicom: Annotated[Path | None, typer.Option(help="Folder with the DICOM files of its ImagingStudies.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Nothing later is read [now].")] = None,
    preset: Annotated[str, typer.Option(help="A preset of models/configs, or a YAML file.")] = "small",
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Records a step, over all processes.")] = 64,
    rate: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = 1e-3,
    seed: int = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda; several GPUs by torchrun.")] = "cpu",
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's log.")] = None,
) -> None:
    """Hide parts of this site's records and learn to restore them; `train` then starts from that.

    A run that was broken off goes on from its last saved step. On several GPUs:
    torchrun --nproc-per-node 4 --no-python cds-service pretrain EXPORT --out OUT --device cuda
    """
    accept_licences(Settings.from_env().accepted_licences)
    console = Console(stderr=True)
    plan = Plan(preset=preset, seed=seed, steps=steps, batch=batch, rate=rate)
    with processes(device) as (rank, mine), Progress(*COLUMNS, console=console, disable=rank != 0) as bar:
        try:
            size = load_preset(preset).image_size
            if rank == 0 and not (out / f"{SOURCE}.safetensors").exists():
                _write_shard(bulk, dicom, until, out, size, bar)
            if dist.is_initialized():
                dist.barrier()
            task = bar.add_task("pretraining", total=steps)
            log = log_writer(tensorboard) if tensorboard and rank == 0 else None

            def tell(step: int, of: int, losses: Mapping[str, float]) -> None:
                said = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                bar.update(task, description=said, completed=step, total=of)
                if log is not None:
                    for name, loss in losses.items():
                        log.add_scalar(f"loss/{name}", loss, step)

            card = run(plan, read_shard(out / f"{SOURCE}.safetensors"), out, device=mine, state=out, progress=tell)
            if log is not None:
                log.close()
        except (ConfigError, SourceError, ShardError, PretrainingError) as error:
            raise CommandError(str(error)) from None
    if card is not None:
        for name, before in card.losses.first.items():
            console.print(f"{name}, records kept apart: {before:.3f} before, {card.losses.last[name]:.3f} after")
        line = f"start: {{folder: {out}, sha256: {card.sha256}}}"
        console.print(f"In a recipe: [bold]{line}[/]", highlight=False, soft_wrap=True)


def _write_shard(bulk: Path, dicom: Path | None, until: datetime | None, out: Path, size: int, bar: Progress) -> None:
    last = datetime.now(UTC) if until is None else until if until.tzinfo else until.replace(tzinfo=UTC)
    task = bar.add_task("indexing", total=None)
    found = open_export(bulk)
    for file, count in found.faults.items():
        bar.console.print(f"[yellow]{file}:[/] {count} lines are no resource of a patient, or cannot be read; left out")
    out.mkdir(parents=True, exist_ok=True)
    export(
        bulk,
        out,
        sources=[site_source(found, index_studies(dicom), until=last)],
        image_size=size,
        progress=lambda what, done: bar.update(task, description=what, completed=done),
    )
    bar.remove_task(task)
