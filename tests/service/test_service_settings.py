from __future__ import annotations

import io

import orjson
import pytest

from service.errors import SettingsError
from service.logs import make_logger
from service.settings import Settings, load_settings


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERGLOW_PORT", "9000")
    monkeypatch.setenv("AFTERGLOW_MAX_BATCH", "8")

    settings = load_settings(port=7000, host=None)

    assert (settings.port, settings.max_batch, settings.host) == (7000, 8, "127.0.0.1")


def test_a_setting_that_does_not_fit_is_named_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERGLOW_MAX_BATCH", "many")

    with pytest.raises(SettingsError) as refusal:
        load_settings(port=70_000)

    assert "setting max_batch (flag or AFTERGLOW_MAX_BATCH): found 'many', input should be a valid integer" in str(
        refusal.value
    )
    assert "setting port" in str(refusal.value)


def test_every_setting_has_a_description_and_a_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERGLOW_REDIS", "redis://:hunter2@example/0")
    monkeypatch.setenv("AFTERGLOW_LOG_SALT", "hunter2")

    assert "hunter2" not in repr(load_settings())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("log_format", "stream", "coloured", "json"),
    [
        ("auto", io.BytesIO, False, True),
        ("auto", Terminal, True, False),
        ("json", Terminal, False, True),
        ("console", io.BytesIO, False, False),
    ],
)
def test_colour_is_for_terminals_and_json_for_everything_else(
    log_format: str, stream: type[io.BytesIO], coloured: bool, json: bool
) -> None:
    out = stream()

    make_logger(load_settings(log_format=log_format), out).info("request", status=200)

    line = out.getvalue()
    assert (b"\x1b[" in line) is coloured
    if json:
        assert orjson.loads(line)["status"] == 200
    assert line.count(b"\n") == 1
