import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from visavis.cli import COMMANDS, main
from visavis.models import Model, ModelError, load_manifest
from visavis.store import pull as pull_module
from visavis.store.pull import Report


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VISAVIS_HOME", str(tmp_path))
    monkeypatch.delenv("VISAVIS_PROFILE", raising=False)
    return tmp_path


def test_help_names_every_command_without_importing_it() -> None:
    before = set(sys.modules)
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, (module, _) in COMMANDS.items():
        assert name in result.output
        assert module.partition(":")[0] not in set(sys.modules) - before


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(main, ["sing"])
    assert result.exit_code == 2
    assert "No such command 'sing'" in result.stderr


def test_list_shows_every_model_with_licence_and_presence() -> None:
    result = CliRunner().invoke(main, ["models", "list"])
    assert result.exit_code == 0
    for model in load_manifest():
        [row] = [line for line in result.output.splitlines() if f" {model.name} " in line]
        assert model.licence in row and " no " in row
    assert "total" in result.output


def fake_pull(monkeypatch: pytest.MonkeyPatch, error: ModelError | None = None) -> list[str]:
    pulled: list[str] = []

    def pull(models: list[Model], report: Report) -> None:
        report.waiting()
        for model in models:
            pulled.append(model.name)
            report.progress(model.name, 0, model.size)
            report.progress(model.name, model.size, model.size)
        if error:
            raise error

    monkeypatch.setattr(pull_module, "pull", pull)
    return pulled


def test_pull_takes_the_models_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = fake_pull(monkeypatch)
    result = CliRunner().invoke(main, ["models", "pull", "--profile", "small"])
    assert result.exit_code == 0
    assert pulled == [model.name for model in load_manifest() if "small" in model.profiles]
    assert "whisper-tiny.en: 78 of 78 MB\n" in result.output
    assert result.output.splitlines()[-1].startswith("Ready: ")


def test_pull_only_takes_the_named_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = fake_pull(monkeypatch)
    result = CliRunner().invoke(main, ["models", "pull", "--only", "silero-vad"])
    assert result.exit_code == 0
    assert pulled == ["silero-vad"]


def test_a_failure_is_one_sentence_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pull(monkeypatch, ModelError("Could not fetch x: no."))
    result = CliRunner().invoke(main, ["models", "pull", "--only", "silero-vad"])
    assert result.exit_code == 1
    assert result.stderr == "Error: Could not fetch x: no.\n"


def test_an_unknown_model_is_one_sentence() -> None:
    result = CliRunner().invoke(main, ["models", "pull", "--only", "gpt"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There is no model gpt; there are: silero-vad")


def test_a_complete_store_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "is_present", lambda self: True)
    result = CliRunner().invoke(main, ["models", "pull"])
    assert result.exit_code == 0
    assert result.output.startswith("Nothing to do: ")
