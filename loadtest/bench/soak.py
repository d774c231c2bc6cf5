"""Long runs: a million mixed requests watched for growth, and clients that hang up at random, watched for mix-ups."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson

from loadtest.bench.artefacts import Shape, histories
from loadtest.bench.exchange import ABORTED, http_request
from loadtest.bench.figures import percentiles
from loadtest.bench.parts import Bench
from loadtest.bench.processes import GROWING, Running, Use
from loadtest.bench.runs import Load, closed_loop
from loadtest.bench.servers import K, Place, afterglow, ask_stored
from loadtest.bench.state import store_histories

_CONNECTIONS = 16
_EVERY_S = 2.0
_SLOWEST_PER_S = 50  # ends a run that makes no progress
_PER_CHUNK = 100_000
# Of the service's memory after its first tenth; the rest of the growth must stay below.
_GROWTH = 0.05
_N_USERS = 2_000


def soak(bench: Bench, shape: Shape, n_requests: int) -> dict[str, Any]:
    """Memory, threads and descriptors of the service over `n_requests` mixed requests, sampled every 2 s."""
    place, found = bench.place(shape)
    service = afterglow(place, bench.tries[:1], root=bench.root)
    requests = mixed_requests(found.item_ids, seed=11)
    load, waited = bench.load(requests), []
    statuses: dict[str, int] = {}
    with bench.start(service, service.settings[0]) as running:
        watch = _Watch(running)
        done = 0
        while done < n_requests:
            wanted = min(_PER_CHUNK, n_requests - done)
            measured = closed_loop(
                running, load, connections=_CONNECTIONS, seconds=wanted / _SLOWEST_PER_S, max_requests=wanted
            )
            outcome = measured.outcome
            done += len(outcome.planned)
            values, counts = np.unique(outcome.status, return_counts=True)
            for status, count in zip(values.tolist(), counts.tolist(), strict=True):
                statuses[str(status)] = statuses.get(str(status), 0) + count
            waited.append(percentiles((outcome.done - outcome.planned) * 1e3))
            bench.say(f"soak: {done} of {n_requests} requests, {watch.last}")
        samples = watch.stop()
    return {"shape": shape.name, "requests": done, "statuses": statuses, "latency_ms": waited, **growth(samples)}


def growth(samples: Sequence[Use]) -> dict[str, Any]:
    """How the last tenth of the samples stands to the second: the first holds caches and pools that still fill up."""
    tenth = max(1, len(samples) // 10)
    told: dict[str, Any] = {"samples": [asdict(each) for each in samples[:: max(1, len(samples) // 60)]]}
    for name in GROWING:
        early = float(np.median([getattr(each, name) for each in samples[tenth : 2 * tenth] or samples[:1]]))
        late = float(np.median([getattr(each, name) for each in samples[-tenth:]]))
        told[name] = {"early": early, "late": late, "growth": round(late / early - 1, 4) if early else 0.0}
    told["flat"] = all(told[name]["growth"] <= _GROWTH for name in GROWING)
    return told


def aborts(bench: Bench, n_aborts: int) -> dict[str, Any]:
    """Replies that belong to someone else while half of all clients hang up at random: there must be none.

    Every user's last item is his canary. The artefact's query is the last item's own vector, rows have length 1 and
    seen items are allowed: so the canary is the first item of his list, and of nobody else's.
    """
    shape = Shape("last-item", 10_000, 64)
    place, found = bench.place(shape)
    scenario = bench.scratch / "canary"
    scenario.mkdir(parents=True, exist_ok=True)
    for folder in place.artefacts.iterdir():
        (scenario / folder.name).unlink(missing_ok=True)
        (scenario / folder.name).symlink_to(folder, target_is_directory=True)
        text = f'default = "canary"\n[scenario.canary]\nretriever = "{folder.name}@latest"\nseen = "allow"\n'
    (scenario / "scenarios.toml").write_text(text)
    service = afterglow(Place(scenario, place.whole, bench.scratch, place.venvs), bench.tries[:1], root=bench.root)
    canaries = list(found.item_ids[:_N_USERS])
    requests, expected = [], []
    for number, canary in enumerate(canaries):
        requests += [service.ask([canary]), ask_stored(f"u{number}")]
        expected += [f'"items":[{{"item_id":"{canary}"'.encode()] * 2
    load = Load(requests, bench.cores.generator, expected)
    told = {"requests": 0, "aborted": 0, "answered": 0, "by_model": 0, "foreign": 0}
    with bench.start(service, service.settings[0]) as running:
        store_histories(running.port, {f"u{number}": [canary] for number, canary in enumerate(canaries)})
        before = running.use()
        seed = 0
        while told["aborted"] < n_aborts:
            wanted = min(_PER_CHUNK, 2 * (n_aborts - told["aborted"]) + 100)
            outcome = closed_loop(
                running,
                load,
                connections=_CONNECTIONS,
                seconds=wanted / _SLOWEST_PER_S,
                max_requests=wanted,
                abort_share=0.7,
                seed=seed,
            ).outcome
            seed += 1
            told["requests"] += len(outcome.planned)
            told["aborted"] += int((outcome.status == ABORTED).sum())
            told["answered"] += int((outcome.status == 200).sum())
            told["by_model"] += int((outcome.tier == 0).sum())
            told["foreign"] += outcome.foreign
            bench.say(f"aborts: {told}")
        time.sleep(1.0)  # connections that were cut a moment ago are still being closed
        after = running.use()
    shutil.rmtree(scenario, ignore_errors=True)
    return {**told, "fds": [before.n_fds, after.n_fds], "pss_mb": [before.pss_mb, after.pss_mb]}


def mixed_requests(item_ids: Sequence[str], *, seed: int, n: int = 4_000) -> list[bytes]:
    """What comes in practice, bad requests included: half with a history, a fifth by user, events and so on."""
    rng = np.random.default_rng(seed)
    lists = histories(item_ids, n, seed=seed)
    kinds = rng.choice(list(_MIX), n, p=list(_MIX.values()))
    return [_request(str(kind), number, lists[number]) for number, kind in enumerate(kinds)]


_MIX = {"history": 0.5, "user": 0.2, "events": 0.15, "similar": 0.05, "batch": 0.03, "bad": 0.05, "unknown": 0.02}


def _request(kind: str, number: int, items: Sequence[str]) -> bytes:
    user_id = f"soak-u{number % _N_USERS}"
    history: dict[str, Any] = {"history": [{"item_id": item_id} for item_id in items], "count": K}
    match kind:
        case "history":
            return http_request("POST", "/v1/recommend", orjson.dumps(history))
        case "user":
            return ask_stored(user_id)
        case "events":
            events = [
                {"event_id": f"soak-{number}-{n}", "type": "view", "item_id": item_id, "user_id": user_id,
                 "session_id": f"s-{user_id}"}
                for n, item_id in enumerate(items[:5])
            ]  # fmt: skip
            return http_request("POST", "/v1/events", orjson.dumps({"events": events}))
        case "similar":
            return http_request("POST", "/v1/similar", orjson.dumps({"item_ids": list(items[:3]), "count": K}))
        case "batch":
            return http_request("POST", "/v1/recommend/batch", orjson.dumps({"requests": [history] * 4}))
        case "bad":
            return http_request("POST", "/v1/recommend", b'{"count": "ten"}')
        case _:
            return http_request("POST", "/v1/recommend", orjson.dumps({**history, "scenario": "nowhere"}))


class _Watch:
    """Samples a server's tree from a thread of its own until it is told to stop."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._samples = [running.use()]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def last(self) -> Use:
        return self._samples[-1]

    def stop(self) -> list[Use]:
        self._end.set()
        self._thread.join()
        return self._samples

    def _watch(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._samples.append(self._running.use())
