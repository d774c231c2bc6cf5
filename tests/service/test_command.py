"""The real command in a process of its own: what it prints, how it ends, and what it survives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from command import LIMIT_S, Serve, until
from napkin import ids
from typer.testing import CliRunner

from service.__main__ import app


def test_the_command_serves_outlives_its_redis_and_stops_in_order(serve: Serve, napkin: Path) -> None:
    command = serve("--artefacts", str(napkin), "--port", "0")
    address, example = command.example()
    base = command.until_ready()

    with httpx.Client(base_url=base) as client:

        def post(path: str, body: Any) -> dict[str, Any]:
            response = client.post(path, json=body)
            assert response.status_code < 300, response.text
            return dict(response.json())

        # The printed request works.
        reply = client.post(address, json=example).json()
        assert (reply["served"]["tier"], len(reply["items"])) == ("model", 5)
        assert client.get("/readyz").status_code == 200

        # Events are stored, and are the next answer's history.
        ask = {"user_id": "u1", "count": 3}
        stored = post("/v1/events", {"events": [{"type": "view", "item_id": "a", "user_id": "u1"}]})
        assert stored["durability"] == "stored"
        assert ids(post("/v1/recommend", ask)) == ["b", "c", "d"]

        # Redis stops answering, dies, and is started again: never an error, and in the end the model again.
        redis = command.redis()
        redis.suspend()
        degraded = post("/v1/recommend", ask)
        assert degraded["served"]["degraded"]
        assert (degraded["served"]["tier"], ids(degraded)) == ("cache", ["b", "c", "d"])
        redis.kill()
        recovered = until(lambda: _from_model(post("/v1/recommend", ask)))
        assert ids(recovered) == ["b", "c", "d"]
        assert post("/v1/similar", {"item_ids": ["e"]})["served"]["tier"] == "model"
        assert [event["item_id"] for event in client.get("/v1/users/u1/export").json()["events"]] == ["a"]

        # A stop: first not ready, still answering; then gone, with Redis.
        redis = command.redis()
        command.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        assert _from_model(post("/v1/recommend", ask))

    assert command.wait() == 0
    assert not redis.is_running() or redis.status() == psutil.STATUS_ZOMBIE
    assert "Traceback" not in command.errors()
    assert all(orjson.loads(line) for line in command.errors().splitlines())  # one format: JSON lines


def _from_model(reply: dict[str, Any]) -> dict[str, Any] | None:
    return reply if reply["served"]["tier"] == "model" and not reply["served"]["degraded"] else None


def test_events_are_still_there_after_a_restart_of_the_command(serve: Serve, napkin: Path, tmp_path: Path) -> None:
    arguments = ("--artefacts", str(napkin), "--port", "0", "--state-dir", str(tmp_path / "state"))
    event = {"type": "view", "item_id": "e", "user_id": "u1"}
    first = serve(*arguments)
    assert httpx.post(f"{first.until_ready()}/v1/events", json={"events": [event]}).json()["durability"] == "stored"
    first.process.kill()
    first.wait()

    second = serve(*arguments)

    reply = httpx.post(f"{second.until_ready()}/v1/recommend", json={"user_id": "u1", "count": 3}).json()
    assert ids(reply) == ["d", "c", "b"]

    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 130
    assert "interrupted" in second.errors()
    assert "Traceback" not in second.errors()


def test_while_loading_the_command_is_alive_not_ready_and_can_be_stopped(
    serve: Serve, napkin: Path, tmp_path: Path
) -> None:
    """Reading a pipe that nobody writes to takes for ever."""
    pipe = tmp_path / "scenarios.toml"
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = serve("--artefacts", str(napkin), "--port", str(port), "--scenarios", str(pipe))

    def get(path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)
        except httpx.TransportError:
            return None

    assert until(lambda: get("/livez")).status_code == 200
    not_ready = until(lambda: get("/readyz"))
    assert (not_ready.status_code, not_ready.json()["code"]) == (503, "not_ready")

    command.process.send_signal(signal.SIGTERM)
    assert command.wait() == 0
    assert "Traceback" not in command.errors()


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("items.npy", lambda content: content[:-1], "items.npy"),
        ("encoder.onnx", lambda content: content[:40] + b"\x00" + content[41:], "encoder.onnx"),
        ("manifest.json", lambda content: content.replace(b'"n_items"', b'"n_item"', 1), "n_items"),
    ],
)
def test_a_spoilt_artefact_is_refused_at_start_with_file_and_reason(
    serve: Serve, napkin: Path, tmp_path: Path, file: str, spoil: Callable[[bytes], bytes], said: str
) -> None:
    root = tmp_path / "spoilt"
    shutil.copytree(napkin, root)
    (path,) = root.glob(f"*/*/{file}")
    path.write_bytes(spoil(path.read_bytes()))

    command = serve("--artefacts", str(root), "--port", "0")

    assert command.wait() == 3
    assert "is refused" in command.errors()
    assert said in command.errors()
    assert "Traceback" not in command.errors()


def test_a_port_in_use_is_said_at_once(serve: Serve, napkin: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = serve("--artefacts", str(napkin), "--port", str(port))

        assert command.wait() == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in command.errors()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-embedded-redis"], "give --redis URL, or --embedded-redis with --state-dir"),
        (["--redis", "redis://localhost", "--embedded-redis"], "not both"),
        (["--redis", "http://localhost"], "redis"),
        (["--port", "70000"], "setting port"),
        (["--artefacts", "nowhere"], "nowhere: found no artefact"),
        (["--device", "tpu"], "setting device"),
    ],
)
def test_a_setting_that_does_not_fit_is_said_without_a_traceback(
    serve: Serve, napkin: Path, arguments: list[str], said: str
) -> None:
    command = serve("--artefacts", str(napkin), "--port", "0", *arguments)

    assert command.wait() == 2
    assert said in command.errors()
    assert "Traceback" not in command.errors()


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env=environment)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --redis URL, or --embedded-redis"),
        (["--embedded-redis"], "nothing is mounted there"),
    ],
)
def test_the_image_asks_for_a_redis_or_a_mounted_folder(
    serve: Serve, options: list[str], said: str, napkin: Path
) -> None:
    image = {"AFTERGLOW_EMBEDDED_REDIS": "false", "AFTERGLOW_STATE_DIR_MUST_BE_MOUNTED": "true"}
    command = serve("--artefacts", str(napkin), "--port", "0", *options, **image)

    assert command.wait() == 2
    assert said in command.errors()


def test_check_says_that_an_artefact_is_ready(napkin: Path) -> None:
    result = run("check", str(next((napkin / "napkin").iterdir())))

    assert result.exit_code == 0
    assert "ready to serve" in result.stdout


def test_check_lists_every_reason_against_an_artefact(napkin: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(next((napkin / "napkin").iterdir()), tmp_path / "spoilt")
    (folder / "items.npy").unlink()
    (folder / "golden.npz").write_bytes(b"gold")

    result = run("check", str(folder))

    assert result.exit_code == 3
    assert "items.npy" in result.stderr
    assert "golden.npz" in result.stderr


def test_check_of_nothing_is_a_reason_and_no_traceback(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "nothing"))

    assert result.exit_code == 3
    assert "is not a folder" in result.stderr


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_shows_examples(command: str) -> None:
    assert f"python -m service {command}" in run(command, "--help", COLUMNS="200").stdout


def test_the_service_loads_nothing_of_the_training_half() -> None:
    code = (
        "import sys, service.app, service.__main__, service.artefact.check\n"
        "found = {'torch', 'onnx', 'onnxscript', 'sklearn', 'models', 'export'} & set(sys.modules)\n"
        "sys.exit(str(found) if found else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert done.returncode == 0, done.stderr


def test_the_command_reads_its_settings_before_numpy_counts_its_threads() -> None:
    code = "import sys, service.__main__, service.settings; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT_S, check=False).returncode == 0
