"""Locust users who walk sessions: look at an item (event), ask what to show next (recommend), think, look again.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --items ids.txt --headless -u 50 -t 60s

Run it as a process of its own (`python -m loadtest locust` does): locust replaces the socket, thread and time functions
of the process that imports it. Options below can also be given as environment variables (`AFTERGLOW_LOAD_ITEMS` ...).
"""

from __future__ import annotations

import itertools
import random
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest.ids import read_item_ids
from loadtest.recorder import Recorder, Reply, read_reply
from loadtest.results import Result
from loadtest.traffic import Call, Traffic
from loadtest.workload import DatasetWorkload, PowerLaw, PowerLawWorkload, Session, Workload


def add_options(parser: Any) -> None:
    group = parser.add_argument_group("afterglow", "the sessions to walk, and the result file")

    def option(name: str, default: Any, help_text: str, **more: Any) -> None:
        env_var = "AFTERGLOW_LOAD_" + name.upper().replace("-", "_")
        kind = {} if default is None else {"type": type(default)}
        group.add_argument(f"--{name}", env_var=env_var, default=default, help=help_text, **kind, **more)

    law = PowerLaw()
    option("items", None, "item ids: a text file, an items.parquet or a folder with one")
    option("dataset", None, "walk the held-out ends of this dataset folder instead of synthetic sessions")
    option("held-out", 5, "events of a dataset user that make the visit, where the set knows no sessions")
    option("state", "stored", "stored: events are posted; request: the history travels with the request")
    option("scenario", "", "scenario to ask for; empty: the service's default")
    option("count", 10, "items to ask for")
    option("event-type", "view", "type of the posted events")
    option("length-exponent", law.length_exponent, "power law of the session length")
    option("popularity-exponent", law.popularity_exponent, "power law of item popularity")
    option("known-share", law.known_share, "share of sessions with a user_id")
    option("n-users", law.n_users, "users behind the known sessions; 0: every session has its own")
    option("think-s", 1.0, "mean pause between two looks, exponentially distributed")
    option("budget-ms", 100.0, "deadline sent with each request, and the limit for goodput")
    option("workload-seed", 7, "seed of the sessions")
    option("result", "", "file to write the measurements to (JSON)")


def prepare(environment: Environment, **_: Any) -> None:
    """Makes what the users of this process share."""
    Shopper.walk = Walk(environment.parsed_options)
    if environment.runner is not None:
        # As at the end of the run's time. Python's own handler raises in whichever user is at work, who prints it.
        gevent.signal_handler(signal.SIGINT, environment.runner.quit)


def write_result(environment: Environment, **_: Any) -> None:
    if Shopper.walk.options.result:
        Shopper.walk.result(environment.host).write(Path(Shopper.walk.options.result))


class Walk:
    """What all users share: the stream of sessions and the recorder."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.traffic = Traffic(options.state, options.scenario or None, options.count, options.event_type)
        self.workload = _workload(options)
        self.sessions: Iterator[Session] = self.workload.sessions()
        self.user_numbers = itertools.count()
        self.recorder = Recorder()
        self.started_s = perf_counter()
        self.headers = {"Content-Type": "application/json", "X-Request-Timeout-Ms": f"{options.budget_ms:.0f}"}

    def result(self, host: str | None) -> Result:
        until_s = perf_counter() - self.started_s
        options = {
            "workload": self.workload.describe(),
            "traffic": self.traffic.describe(),
            "think_s": self.options.think_s,
            "budget_ms": self.options.budget_ms,
            "users": self.options.num_users,
            "loop": "closed",
        }
        result = Result("locust", options, service={"host": host}, program="locust")
        result.interrupted = until_s < (self.options.run_time or 0) - 1  # seconds, as locust parsed them
        result.findings = self.recorder.findings(0.0, until_s, self.options.budget_ms)
        return result


def _workload(options: Any) -> Workload:
    run_id = f"locust-{secrets.token_hex(4)}"
    if options.dataset:
        return DatasetWorkload(
            Path(options.dataset), held_out=options.held_out, seed=options.workload_seed, run_id=run_id
        )
    if not options.items:
        raise SystemExit("locustfile: give --items or --dataset (AFTERGLOW_LOAD_ITEMS, AFTERGLOW_LOAD_DATASET)")
    law = PowerLaw(
        length_exponent=options.length_exponent,
        popularity_exponent=options.popularity_exponent,
        known_share=options.known_share,
        n_users=options.n_users,
    )
    return PowerLawWorkload(read_item_ids(Path(options.items)), law, seed=options.workload_seed, run_id=run_id)


class Shopper(FastHttpUser):
    """Walks sessions: one look per task. FastHttpUser, as the usual HttpUser costs four times the CPU per request."""

    walk: ClassVar[Walk]  # set by `prepare`, before the first user starts

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.calls: Iterator[Call] = iter(())
        # Every user thinks at their own pace, the same in every run.
        self.rng = random.Random(f"{self.walk.options.workload_seed}-{next(self.walk.user_numbers)}")

    def wait_time(self) -> float:
        think_s: float = self.walk.options.think_s
        return self.rng.expovariate(1.0 / think_s) if think_s > 0 else 0.0

    @task
    def look(self) -> None:
        """Everything up to and with the next recommendation; a finished session gives way to a new one."""
        while True:
            for call in self.calls:
                self.send(call)
                if call.kind == "recommend":
                    return
            self.calls = self.walk.traffic.calls(next(self.walk.sessions))

    def send(self, call: Call) -> None:
        """One request; what locust counts as a failure is what the recorder does."""
        start_s = perf_counter() - self.walk.started_s
        with self.client.post(
            call.path, data=call.body.decode(), headers=self.walk.headers, name=call.path, catch_response=True
        ) as response:
            done_s = perf_counter() - self.walk.started_s
            if response.status_code:
                reply = read_reply(call.kind, response.status_code, response.content or b"")
            else:
                reply = Reply(0, fault="no_reply")
            if reply.ok:
                response.success()
            else:
                response.failure(reply.fault)
        self.walk.recorder.add(
            call.kind, planned_s=start_s, started_s=start_s, sent_s=start_s, done_s=done_s, reply=reply
        )


for hook, listener in (
    (events.init_command_line_parser, add_options),
    (events.init, prepare),
    (events.quitting, write_result),
):
    hook.add_listener(listener)
