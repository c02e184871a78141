"""Commands that start nothing: check, schema, and what is said when something is wrong."""

import json
from pathlib import Path

import pytest
from jsonschema.validators import validator_for
from typer.testing import CliRunner, Result

from deployments.cli.main import app
from deployments.config import profiles


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def _own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("profile", profiles())
def test_check_shows_every_pool_of_a_profile(profile: str) -> None:
    result = run("check", profile)
    assert result.exit_code == 0, result.stderr
    assert "general" in result.stdout


def test_check_names_every_wrong_key(config_file: Path) -> None:
    config_file.write_text(
        config_file.read_text() + "  code: {model: x, engine: {kind: vllm}, colour: blue, replicas: 0}\n"
    )
    result = run("check", str(config_file))
    assert result.exit_code == 1
    assert "config_error" in result.stderr
    assert "pools.code.colour" in result.stderr
    assert "pools.code.replicas" in result.stderr
    assert "Traceback" not in result.output


def test_schema_is_a_json_schema_that_knows_the_sections() -> None:
    result = run("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    validator_for(schema).check_schema(schema)
    assert {"gateway", "router", "ray", "pools"} <= schema["properties"].keys()


def test_up_refuses_a_profile_and_a_file_together(config_file: Path) -> None:
    result = run("up", "--profile", "local", "--config", str(config_file))
    assert result.exit_code == 1
    assert "config_error" in result.stderr


def test_up_with_an_unknown_profile_lists_those_that_exist() -> None:
    result = run("up", "--profile", "imaginary")
    assert result.exit_code == 1
    assert "local" in result.stderr


def test_status_without_a_cluster_says_that_none_is_running() -> None:
    result = run("status")
    assert result.exit_code == 1
    assert "none is running" in result.stderr


def test_status_of_an_unreachable_gateway_names_its_address() -> None:
    result = run("status", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9" in result.stderr


def test_down_without_a_cluster_is_content() -> None:
    result = run("down")
    assert result.exit_code == 0
    assert "nothing is running" in result.stdout
