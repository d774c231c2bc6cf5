"""Every server that is measured: how it starts, which settings are tried, and how it wants to be asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from loadtest.bench.exchange import http_request
from loadtest.errors import InputError

ROOT = Path(__file__).parents[2]
K = 20
History = Sequence[str]


@dataclass(frozen=True)
class Place:
    """Folders of one benchmark.

    Args:
        artefacts: what the service is given: a folder with one artefact.
        whole: `whole.onnx` and `item_ids.txt`, what the peers are given.
        scratch: for logs, configuration and state of this run; removed at its end.
        venvs: one virtual environment for each peer, by its name.
    """

    artefacts: Path
    whole: Path
    scratch: Path
    venvs: Path


@dataclass(frozen=True)
class Setting:
    """One way to run a server: `label` names it in the result."""

    label: str
    command: Callable[[int], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Server:
    """A server and the settings it is tuned over."""

    name: str
    ready: str
    settings: Sequence[Setting]
    ask: Callable[[History], bytes]  # a whole HTTP request
    packages: Sequence[str] = ()  # distributions whose versions belong to the result


def echo() -> Server:
    """The stock no-op: FastAPI parses and validates a JSON body, and answers one through `response_model`."""
    command = [sys.executable, "-m", "uvicorn", "loadtest.bench.echo_app:app", "--no-access-log"]
    command += ["--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    one = Setting("1 worker", lambda port: [*command, "--port", str(port)], {"PYTHONPATH": str(ROOT)})

    def ask(history: History) -> bytes:
        body = orjson.dumps({"history": [{"item_id": item_id} for item_id in history], "count": K})
        return http_request("POST", "/echo", body)

    return Server("echo", "/ready", [one], ask, ("fastapi", "uvicorn", "pydantic"))


def afterglow(
    place: Place, tries: Sequence[Mapping[str, str]] = ({},), *, budget_ms: float | None = None, root: Path = ROOT
) -> Server:
    """The service itself.

    Args:
        tries: settings by field name, one mapping for each way to run it.
        budget_ms: deadline sent with each request; None: the service's default.
        root: checkout to run.
    """
    settings = []
    for number, each in enumerate(tries):
        state = place.scratch / f"state-{number}"
        environment = {f"AFTERGLOW_{name.upper()}": value for name, value in each.items()}
        environment |= {"AFTERGLOW_STATE_DIR": str(state), "AFTERGLOW_ARTEFACTS": str(place.artefacts)}
        # One log line a request is ours alone; a peer that writes none would be compared with one that does.
        environment |= {"AFTERGLOW_LOG_LEVEL": each.get("log_level", "warning")}
        # `-m` would look into the folder it is started in first, which need not be the checkout that is measured.
        environment |= {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "service", "serve", "--embedded-redis"]
        label = " ".join(f"{name}={value}" for name, value in each.items()) or "default"
        settings.append(
            Setting(label, lambda port, command=command: [*command, "--port", str(port)], environment)  # type: ignore[misc]
        )

    def ask(history: History) -> bytes:
        body = orjson.dumps({"history": [{"item_id": item_id} for item_id in history], "count": K})
        return http_request("POST", "/v1/recommend", body, budget_ms=budget_ms)

    return Server("afterglow", "/readyz", settings, ask, ("afterglow", "onnxruntime", "numpy", "fastapi", "uvicorn"))


def ask_stored(user_id: str, *, budget_ms: float | None = None) -> bytes:
    """A request whose history lies in Redis."""
    return http_request("POST", "/v1/recommend", orjson.dumps({"user_id": user_id, "count": K}), budget_ms=budget_ms)


def straightforward(place: Place, cores: int) -> Server:
    """FastAPI, ONNX Runtime and Redis as a competent user writes them; workers, threads and concurrent runs tried."""
    command = [sys.executable, "-m", "loadtest.peers.straightforward", "--folder", str(place.whole)]
    grid = dict.fromkeys([(cores, 1, 0), (cores, 1, 1), (cores, 1, 2), (1, cores, 1)])
    settings = [
        Setting(
            f"{workers} workers x {threads} threads, " + (f"{pool} at once" if pool else "in the loop"),
            _with_port(command, "--workers", workers, "--threads", threads, "--pool", pool),
            {"PYTHONPATH": str(ROOT)},
        )
        for workers, threads, pool in grid
    ]
    return Server(
        "straightforward", "/ready", settings, _simple("/recommend"), ("fastapi", "uvicorn", "onnxruntime", "redis")
    )


def mosec(place: Place, cores: int) -> Server:
    command = [_python(place, "mosec"), "-m", "loadtest.peers.mosec_server", "--folder", str(place.whole)]
    grid = [(cores, 1, 1), (cores, 1, 4), (cores, 1, 8), (cores, 1, 16), (1, cores, 8), (1, cores, 16), (1, cores, 32)]
    # It waits at least 1 ms for a batch to fill and, where it is not told how long, 10 ms.
    settings = _batching(command, grid, wait_ms=1)
    return Server("mosec", "/metrics", settings, _simple("/inference"), ("mosec", "onnxruntime"))


def litserve(place: Place, cores: int) -> Server:
    command = [_python(place, "litserve"), "-m", "loadtest.peers.litserve_server", "--folder", str(place.whole)]
    grid = [(cores, 1, 1), (1, 1, 8), (1, cores, 8), (1, cores, 16), (1, cores, 32), (cores, 1, 8)]
    return Server(
        "litserve", "/health", _batching(command, grid, wait_ms=1), _simple("/predict"), ("litserve", "onnxruntime")
    )


def ray_serve(place: Place, cores: int) -> Server:
    command = [_python(place, "ray"), "-m", "loadtest.peers.ray_server", "--folder", str(place.whole)]
    grid = [(cores, 1, 8), (1, cores, 16), (1, 1, 8)]  # few: it takes half a minute to start
    quiet = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    return Server("ray", "/", _batching(command, grid, environment=quiet), _simple("/"), ("ray", "onnxruntime"))


def bentoml(place: Place, cores: int) -> Server:
    program = str(Path(_python(place, "bentoml")).with_name("bentoml"))
    command = [program, "serve", "loadtest.peers.bentoml_server:Recommend", "--host", "127.0.0.1"]
    settings = [
        Setting(
            f"{workers} workers x {threads} threads, batch {batch}",
            _with_port(command),
            _for_child(place, threads)
            | {"MODEL_WORKERS": str(workers), "MODEL_BATCH": str(batch), "BENTOML_DO_NOT_TRACK": "1"},
        )
        for workers, threads, batch in [(cores, 1, 1), (1, 1, 16), (1, cores, 16), (1, cores, 32), (cores, 1, 16)]
    ]

    def ask(history: History) -> bytes:
        return http_request("POST", "/recommend", orjson.dumps({"histories": [history]}))

    return Server("bentoml", "/readyz", settings, ask, ("bentoml", "onnxruntime"))


def mlserver(place: Place, cores: int) -> Server:
    settings = []
    grid = [(0, 1, 1), (0, cores, 16), (1, 1, 16), (1, cores, 32), (cores, 1, 8)]
    for workers, threads, batch in grid:
        folder = place.scratch / f"mlserver-{workers}-{threads}-{batch}"

        def prepare(port: int, folder: Path = folder, workers: int = workers, batch: int = batch) -> list[str]:
            folder.mkdir(parents=True, exist_ok=True)
            server = {
                "host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2,
                "parallel_workers": workers, "debug": False, "metrics_endpoint": None,
            }  # fmt: skip
            batching = {"max_batch_size": batch, "max_batch_time": 0.001} if batch > 1 else {}
            model = {"name": "recommend", "implementation": "loadtest.peers.mlserver_runtime.Recommend", **batching}
            (folder / "settings.json").write_bytes(orjson.dumps(server))
            (folder / "model-settings.json").write_bytes(orjson.dumps(model))
            return [str(Path(_python(place, "mlserver")).with_name("mlserver")), "start", str(folder)]

        label = f"{workers} workers x {threads} threads, batch {batch}"
        settings.append(Setting(label, prepare, _for_child(place, threads)))

    def ask(history: History) -> bytes:
        one = {"name": "history", "shape": [1, 1], "datatype": "BYTES", "data": [" ".join(history)]}
        return http_request("POST", "/v2/models/recommend/infer", orjson.dumps({"inputs": [one]}))

    return Server("mlserver", "/v2/health/ready", settings, ask, ("mlserver", "onnxruntime"))


PEERS: dict[str, Callable[[Place, int], Server]] = {
    "straightforward": straightforward,
    "mosec": mosec,
    "litserve": litserve,
    "bentoml": bentoml,
    "ray": ray_serve,
    "mlserver": mlserver,
}


def _batching(
    command: Sequence[str],
    grid: Sequence[tuple[int, int, int]],
    *,
    wait_ms: int = 0,
    environment: Mapping[str, str] | None = None,
) -> list[Setting]:
    return [
        Setting(
            f"{workers} workers x {threads} threads, batch {batch}",
            _with_port(command, "--workers", workers, "--threads", threads, "--batch", batch, "--wait-ms", wait_ms),
            {"PYTHONPATH": str(ROOT), **(environment or {})},
        )
        for workers, threads, batch in dict.fromkeys(grid)
    ]


def _with_port(command: Sequence[str], *options: object) -> Callable[[int], Sequence[str]]:
    return lambda port: [*command, *map(str, options), "--port", str(port)]


def _for_child(place: Place, threads: int) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "MODEL_FOLDER": str(place.whole), "MODEL_THREADS": str(threads)}


def _simple(path: str) -> Callable[[History], bytes]:
    return lambda history: http_request("POST", path, orjson.dumps({"history": history}))


def _python(place: Place, name: str) -> str:
    python = place.venvs / name / "bin" / "python"
    if not python.is_file():
        raise InputError(
            f"peer {name}: {python} is not there; install it with: python -m loadtest peers install {name}"
        )
    return str(python)
