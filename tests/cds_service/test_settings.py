"""What the environment may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cds_service.settings import Settings, SettingsError, documented


def test_without_a_word_the_service_is_closed_and_local() -> None:
    settings = Settings.from_env({})
    assert (settings.host, settings.port, settings.base_url) == ("127.0.0.1", 8080, "http://127.0.0.1:8080")
    assert (settings.jwt, settings.profile, settings.cors_origins) == ("required", "non_device", ())
    assert settings.max_body_bytes == 10_000_000
    assert (settings.manifests / "services").is_dir()
    assert settings.models == settings.manifests / "models"
    assert settings.clients == settings.manifests / "clients.yaml"


def test_every_setting_is_read_from_its_variable(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "ORDERSIGHT_HOST": "::1",
            "ORDERSIGHT_PORT": "9000",
            "ORDERSIGHT_BASE_URL": "https://cds.example.org/ordersight/",
            "ORDERSIGHT_MANIFESTS": str(tmp_path),
            "ORDERSIGHT_MODELS": "",
            "ORDERSIGHT_CLIENTS": str(tmp_path / "who.yaml"),
            "ORDERSIGHT_PROFILE": "research_imaging",
            "ORDERSIGHT_JWT": "off",
            "ORDERSIGHT_CORS_ORIGINS": "https://a.example.org, http://localhost:3000",
            "ORDERSIGHT_MAX_BODY_BYTES": "5000",
            "ORDERSIGHT_STATE_DIR": str(tmp_path / "state"),
            "ORDERSIGHT_THREADS": "4",
            "ORDERSIGHT_SHARED": "/elsewhere",
            "PATH": "/bin",
        }
    )
    assert settings == Settings(
        host="::1",
        port=9000,
        base_url="https://cds.example.org/ordersight",
        manifests=tmp_path,
        clients=tmp_path / "who.yaml",
        profile="research_imaging",
        jwt="off",
        cors_origins=("https://a.example.org", "http://localhost:3000"),
        max_body_bytes=5000,
        state_dir=tmp_path / "state",
        threads=4,
    )
    assert settings.models == tmp_path / "models"


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("ORDERSIGHT_PORT", "eighty", "a whole number from 0 to 65535"),
        ("ORDERSIGHT_PORT", "70000", "a whole number from 0 to 65535"),
        ("ORDERSIGHT_PORT", "-1", "a whole number"),
        ("ORDERSIGHT_THREADS", "0", "a whole number from 1 to 256"),
        ("ORDERSIGHT_MAX_BODY_BYTES", "10MB", "a whole number"),
        ("ORDERSIGHT_PROFILE", "device", "non_device or research_imaging"),
        ("ORDERSIGHT_JWT", "false", "required or off"),
        ("ORDERSIGHT_CORS_ORIGINS", "*", "origins such as https://ehr.example.org"),
        ("ORDERSIGHT_CORS_ORIGINS", "https://a.example.org/", "without a path"),
        ("ORDERSIGHT_BASE_URL", "cds.example.org", "https://cds.example.org"),
        ("ORDERSIGHT_CA_BUNDLE", "/no/such/ca.pem", "a file that exists"),
        ("ORDERSIGHT_HOST", "a b", "an address to listen on"),
        ("ORDERSIGHT_BASEURL", "https://x.example.org", "did you mean ORDERSIGHT_BASE_URL?"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_would_be_right(variable: str, value: str, right: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: value})
    assert variable in str(caught.value)
    assert right in str(caught.value)


def test_every_setting_has_a_line_for_the_handbook() -> None:
    rows = documented()
    assert ("ORDERSIGHT_PORT", "8080", "port to listen on; 0 takes a free one") in rows
    assert all(default and default != "None" and meaning for _, default, meaning in rows)
