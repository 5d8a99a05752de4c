"""What `pip install ordersight` brings: a wheel is built, installed, and asked for its services and models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARE = "share/ordersight/manifests"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline from a copy of what is tracked or new, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in files:
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*build, "-w", str(folder), str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are those of the environment the tests run in."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    # A path of a .pth file is added without the .pth files in it: our own editable installation stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*install, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def run(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ORDERSIGHT_", "PYTHON"))}
    line = [str(installed / "bin/python"), "-P", *arguments]
    return subprocess.run(line, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False)


def test_the_wheel_holds_every_service_and_every_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shared = {name.partition(f"/{SHARE}/")[2] for name in names if f"/{SHARE}/" in name}
    tracked = ["services/*.yaml", "models/*/model.json", "models/*/weights.safetensors", "systemd/*"]
    expected = {str(p.relative_to(ROOT / "manifests")) for t in tracked for p in (ROOT / "manifests").glob(t)}
    assert len(expected) > 10
    assert expected <= shared
    for name in (
        "fhir_mappers/tables/labs.csv",
        "models/configs/chest-open.yaml",
        "cds_service/pages/static/evidence.css",
        "cds_service/demo/static/page.js",
    ):
        assert name in names


def test_the_wheel_holds_nothing_but_our_three_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        rooms = {name.split("/")[0] for name in archive.namelist()}
    assert {room for room in rooms if not room.startswith("ordersight-")} == {"cds_service", "fhir_mappers", "models"}


def test_an_installed_service_finds_its_manifests_and_models(installed: Path, tmp_path: Path) -> None:
    asked = (
        "import json, cds_service; from cds_service.settings import Settings; s = Settings.from_env({});"
        "print(json.dumps([cds_service.__path__[0], str(s.manifests), sorted(p.name for p in s.models.iterdir())]))"
    )
    done = run(installed, "-c", asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, manifests, models = json.loads(done.stdout)
    assert Path(package).is_relative_to(installed)
    assert Path(manifests) == installed / SHARE
    assert models == sorted(p.parent.name for p in (ROOT / "manifests/models").glob("*/model.json"))


def test_an_installed_service_lists_its_services(installed: Path, tmp_path: Path) -> None:
    done = run(installed, str(installed / "bin/cds-service"), "services", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "imaging-safety" in done.stdout
