"""`cds-service services | invoke | import`: ask a running service, and load real patients to ask about."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import requests
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cds_service.cli.errors import CommandError
from cds_service.cli.show import print_cards, services_table
from cds_service.manifest import HOOKS, load_services
from cds_service.settings import Settings

TIMEOUT_S = 30.0
Url = Annotated[str, typer.Option("--url", help="Base URL of a running service.")]


def services(url: Annotated[str, typer.Option("--url", help="Ask a running service instead.")] = "") -> None:
    """List the services: of the manifests here, or as a running service's discovery tells an EHR."""
    if url:
        entries = _json(requests.get, f"{url.rstrip('/')}/cds-services")["services"]
    else:
        settings = Settings.from_env()
        entries = load_services(settings.manifests / "services", settings.profile).discovery()["services"]
    Console().print(services_table(entries))


def invoke(
    service: Annotated[str, typer.Argument(help="Service id, e.g. imaging-safety.")],
    hook: Annotated[str, typer.Option(help=f"One of {', '.join(HOOKS)}.")] = "patient-view",
    patient: Annotated[str, typer.Option(help="Patient id on the FHIR server.")] = "",
    fhir: Annotated[str, typer.Option(help="FHIR base the service may read from.")] = "",
    order: Annotated[list[Path] | None, typer.Option(help="File with a draft resource; repeat for several.")] = None,
    request: Annotated[Path | None, typer.Option(help="File with a whole hook request instead.")] = None,
    token: Annotated[str, typer.Option(help="Bearer JWT of the client, where the service checks callers.")] = "",
    raw: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Fire one hook at a running service and print the cards."""
    if request is not None:
        body = _read_json(request)
    else:
        if not patient:
            raise CommandError("say which patient: --patient ID, or a whole request with --request FILE")
        body = _hook_request(hook, patient, fhir, [_read_json(p) for p in order or ()])
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = _json(requests.post, f"{url.rstrip('/')}/cds-services/{service}", json=body, headers=headers)
    if raw:
        typer.echo(json.dumps(answer, indent=2))
    else:
        print_cards(Console(), f"{body['hook']} · {service}", answer["cards"])


def _hook_request(hook: str, patient: str, fhir: str, drafts: list[Any]) -> dict[str, Any]:
    context: dict[str, Any] = {"userId": "Practitioner/command-line", "patientId": patient}
    if hook in ("order-select", "order-sign"):
        entries = [{"resource": draft} for draft in drafts]
        context["draftOrders"] = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        if hook == "order-select":
            context["selections"] = [f"{d['resourceType']}/{d['id']}" for d in drafts]
    body: dict[str, Any] = {"hook": hook, "hookInstance": str(uuid.uuid4()), "context": context}
    if fhir:
        body["fhirServer"] = fhir
    return body


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommandError(f"{path}: no such file") from None
    except ValueError as error:
        raise CommandError(f"{path}: not JSON ({error})") from None


def _json(method: Any, url: str, **arguments: Any) -> Any:
    try:
        answer = method(url, timeout=TIMEOUT_S, **arguments)
    except requests.RequestException as error:
        raise CommandError(
            f"{url} does not answer ({type(error).__name__}); is it running? `cds-service serve` starts it"
        ) from None
    if answer.status_code != requests.codes.ok:
        try:
            said = answer.json()["issue"][0]["diagnostics"]
        except (ValueError, LookupError, TypeError):
            said = answer.reason
        raise CommandError(f"{url} answered {answer.status_code}: {said}")
    return answer.json()


def import_(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles (.json, .json.gz) or folders of them.")],
    fhir: Annotated[str, typer.Option(help="FHIR base to load them into.")],
    dicomweb: Annotated[str | None, typer.Option(help="DICOMweb root to store films in.")] = None,
    images: Annotated[Path | None, typer.Option(help="Pictures to wrap into DICOM, with their table.")] = None,
    dicom: Annotated[Path | None, typer.Option(help="DICOM files, found by SOP instance UID.")] = None,
    shift_to: Annotated[
        str, typer.Option(help="Move each patient's dates so that the newest lies just before this: `now` or ISO 8601.")
    ] = "",
    token: Annotated[str | None, typer.Option(help="Bearer token for the FHIR server.")] = None,
) -> None:
    """Load FHIR Bundles and their films into a FHIR server and a DICOMweb archive."""
    from cds_service.cli.importing import import_bundles  # pydicom, which asking needs not

    try:
        moment = datetime.now(UTC) if shift_to == "now" else datetime.fromisoformat(shift_to) if shift_to else None
    except ValueError:
        raise CommandError(f"--shift-to is {shift_to!r}; write `now` or a moment such as 2026-11-24T08:00Z") from None
    console = Console()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("importing", total=None)
        done = import_bundles(
            bundles,
            fhir,
            dicomweb,
            images_folder=images,
            dicom_folder=dicom,
            shift_to=moment,
            token=token,
            progress=lambda n, of, name: bar.update(task, completed=n, total=of, description=name),
        )
    console.print(f"{done.bundles} Bundles, {done.resources} resources, {done.films} films")
    if done.filmless:
        console.print(f"{done.filmless} images of ImagingStudies have no film here", style="yellow")
    for fault in done.faults:
        console.print(f"[red]not loaded[/] {fault}", highlight=False)
    if done.faults:
        raise typer.Exit(1)
