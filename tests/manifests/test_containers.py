"""The image, the compose file and the systemd unit, as far as they can be judged without building them."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from cds_service.cli.main import GROUPS
from cds_service.settings import Settings, documented
from cds_service.state import schema
from cds_service.state.store import Store
from cds_service.state.tenancy import is_owner, isolation
from cds_service.trust.clients import load_clients

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cds_service/state"))

from postgres_cluster import binaries, cluster

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "manifests/Dockerfile"
COMPOSE = ROOT / "manifests/compose.yaml"
UNIT = ROOT / "manifests/systemd/ordersight.service"
KNOWN = {name for name, _, _ in documented()}
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL"}
INSTRUCTIONS |= {"USER", "VOLUME", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in whole.splitlines()) if word
    ]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    pairs = [pair for word, rest in stage if word == "ENV" for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def test_the_dockerfile_is_instructions_and_nothing_else() -> None:
    assert {word for word, _ in instructions()} <= INSTRUCTIONS
    assert sum(word == "FROM" for word, _ in instructions()) == 2


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    users = [rest for word, rest in last_stage() if word == "USER"]
    assert users == ["10001:10001"]
    after = last_stage()[[word for word, _ in last_stage()].index("USER") :]
    assert not {"RUN", "COPY"} & {word for word, _ in after}


def test_the_image_starts_python_without_the_current_folder_on_its_path() -> None:
    (entry,) = (rest for word, rest in last_stage() if word == "ENTRYPOINT")
    assert entry == '["python", "-P", "/opt/ordersight/bin/cds-service"]'
    assert environment(last_stage())["PYTHONSAFEPATH"] == "1"
    (command,) = (rest for word, rest in last_stage() if word == "CMD")
    assert command == '["serve"]'


def test_the_image_sets_only_settings_we_have_and_they_can_be_read() -> None:
    ours = {name: value for name, value in environment(last_stage()).items() if name.startswith("ORDERSIGHT_")}
    settings = Settings.from_env(ours)
    (port,) = (rest for word, rest in last_stage() if word == "EXPOSE")
    assert int(port) == settings.port
    assert str(settings.state_dir) in {rest for word, rest in last_stage() if word == "VOLUME"}


def test_what_the_image_copies_is_there_and_is_not_ignored() -> None:
    ignore = (ROOT / "manifests/Dockerfile.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        part for word, rest in instructions() if word == "COPY" and "--from" not in rest for part in rest.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in kept), f"{name} is kept out of the build"


def test_torch_is_pinned_where_the_image_looks_for_it() -> None:
    assert re.search(r"^torch==\d+\.\d+\.\d+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in DOCKERFILE.read_text()


def test_the_compose_file_follows_the_specification() -> None:
    PyCompose.from_yaml(COMPOSE.read_text()).validate()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("cap_drop:", "cap_dorp:"), ("service_healthy", "healthy"), ("- state:/var", "- stat:/var")],
)
def test_a_typing_error_in_the_compose_file_is_found(right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    with pytest.raises(ValueError):
        PyCompose.from_yaml(text.replace(right, wrong)).validate()


def test_the_compose_file_sets_only_settings_we_have_and_they_can_be_read() -> None:
    for service in ("ordersight", "upgrade"):
        set_ = compose()["services"][service]["environment"]
        assert set(set_) <= KNOWN
        assert Settings.from_env(set_).state_url.startswith("postgresql+psycopg://")


def test_the_compose_roles_are_bound_by_the_policies_of_tenants(tmp_path: Path, caplog: Any) -> None:
    """The image runs the script with psql as its administrator; here Debian's PostgreSQL does."""
    services = compose()["services"]
    (script,) = (v.split(":")[0] for v in services["postgres"]["volumes"] if "initdb.d" in v)
    with cluster() as server:
        psql = [
            binaries() / "psql",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(server.port),
            "-U",
            "postgres",
            "-d",
            "postgres",
        ]
        env = {**os.environ, "POSTGRES_PASSWORD": "it's chosen"}
        subprocess.run([*psql, "-f", COMPOSE.parent / script], env=env, check=True)
        given = Settings.from_env(services["ordersight"]["environment"])
        owner, service = (
            make_url(re.sub(r"\$\{[^}]*\}", "x", url)).set(host="127.0.0.1", port=server.port)
            for url in (given.state_owner_url, given.state_url)
        )
        schema.upgrade(owner)
        assert service.username is not None
        schema.grant(owner, service.username)
        shown = {"hide_password": False}
        with Store.open(
            service.render_as_string(**shown), tmp_path, owner_url=owner.render_as_string(**shown), outbox_bytes=0
        ) as store:
            assert store.verify_audit().ok
        assert "tenants are kept apart by the queries alone" not in caplog.text
        with create_engine(service).connect() as conn:
            assert isolation(conn) == "on"
            assert not is_owner(conn)


def test_nothing_of_the_compose_file_listens_beyond_this_machine() -> None:
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_every_file_the_compose_file_mounts_is_there() -> None:
    mounted = [v.split(":")[0] for s in compose()["services"].values() for v in s.get("volumes", ())]
    files = [m for m in mounted if m.startswith(".")]
    assert files == ["./compose/clients.yaml", "./compose/roles.sql"]
    assert all((COMPOSE.parent / file).is_file() for file in files)
    build = compose()["services"]["ordersight"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE


def test_every_volume_the_compose_file_mounts_is_declared() -> None:
    mounted = {v.split(":")[0] for s in compose()["services"].values() for v in s.get("volumes", ())}
    assert {m for m in mounted if not m.startswith(".")} == set(compose()["volumes"])


def test_the_compose_clients_are_read_and_name_the_ports_that_are_served() -> None:
    (client,) = load_clients(ROOT / "manifests/compose/clients.yaml").all
    services = compose()["services"]
    (server,) = client.fhir
    assert server.base == f"http://127.0.0.1:{services['fhir']['environment']['SERVER_PORT']}/fhir"
    published = {port.rsplit(":", 1)[1] for port in services["ordersight"]["ports"]}
    # What shares the service's network is on its loopback address.
    assert {services[s]["network_mode"] for s in ("fhir", "orthanc")} == {"service:ordersight"}
    assert {server.base.split(":")[2].split("/")[0], server.dicomweb[0].split(":")[2].split("/")[0]} <= published


def test_compose_waits_for_calls_under_way() -> None:
    (drain_s,) = (int(default) for name, default, _ in documented() if name == "ORDERSIGHT_DRAIN_S")
    assert int(compose()["services"]["ordersight"]["stop_grace_period"].removesuffix("s")) > drain_s


def test_containers_and_unit_give_commands_that_exist() -> None:
    words = {word for words, _ in GROUPS.values() for word in words}
    assert compose()["services"]["upgrade"]["command"][0] in words
    started = re.findall(
        r"^Exec\w+=/opt/ordersight/bin/python -P /opt/ordersight/bin/cds-service (\w+)", UNIT.read_text(), re.M
    )
    assert started == ["state", "serve"]
    assert set(started) <= words


def test_the_unit_sets_only_settings_we_have_and_waits_for_calls_under_way() -> None:
    text = UNIT.read_text()
    assert set(re.findall(r"\bORDERSIGHT_\w+(?==)", text)) <= KNOWN
    (drain_s,) = (int(default) for name, default, _ in documented() if name == "ORDERSIGHT_DRAIN_S")
    (stop_s,) = (int(n) for n in re.findall(r"^TimeoutStopSec=(\d+)", text, re.M))
    assert stop_s > drain_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_knows_every_key_of_the_unit_and_rates_it_well(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ordersight/bin/python", str(python)))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert not [line for line in verified.stderr.splitlines() if UNIT.name in line], verified.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-500:]
