"""Models, health, metrics, and what the log says of a request."""

from __future__ import annotations

import asyncio

import pytest
from napkin import ITEMS, Running, Start

from service.api.schemas import LiveReply, ModelsReply, ReadyReply
from service.errors import ArtefactRefused


async def test_models_and_scenarios_are_listed(running: Running) -> None:
    reply = (await running.client.get("/v1/models")).json()

    ModelsReply.model_validate(reply)
    assert [model["name"] for model in reply["models"]] == ["napkin", "counts", "plain"]
    napkin = reply["models"][0]
    assert (napkin["n_items"], napkin["dim"], napkin["device"]) == (7, 2, "CPUExecutionProvider")
    assert reply["scenarios"][0] == {
        "name": "home",
        "default": True,
        "model": {"name": "napkin", "version": napkin["version"]},
        "count": 3,
        "deadline_ms": 100,
        "seen": "exclude",
        "categories": [],
        "ranker": None,
        "candidates": None,
    }


async def test_a_loaded_service_is_alive_and_ready(running: Running) -> None:
    live, ready = [await running.client.get(path) for path in ("/livez", "/readyz")]

    LiveReply.model_validate(live.json())
    ReadyReply.model_validate(ready.json())
    assert (live.status_code, ready.status_code) == (200, 200)


async def test_without_the_store_the_service_stays_ready_and_says_so_when_asked(running: Running) -> None:
    running.store.away = True

    reply = await running.client.get("/readyz?verbose")

    assert reply.status_code == 200
    assert reply.json()["checks"] == {"models": "ok", "state": "unavailable, answers are degraded"}


async def test_a_draining_service_is_not_ready_but_still_answers(running: Running) -> None:
    running.service.readiness.draining = True

    refused = await running.client.get("/readyz")

    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert (await running.client.get("/livez")).status_code == 200
    assert (await running.recommend(history=[{"item_id": "a"}]))["served"]["tier"] == "model"


async def test_a_refused_artefact_never_becomes_ready(start: Start) -> None:
    def refuse() -> None:
        raise ArtefactRefused("napkin", ["items.npy: is gone"])

    async with start(refuse) as running:
        await running.service.until_loaded()

        assert (await running.client.get("/readyz")).status_code == 503


async def test_metrics_count_answers_by_tier_and_requests_by_route(running: Running) -> None:
    version = running.service.recommender.registry.scenario("home").model.version
    await running.recommend(history=[{"item_id": "a"}])
    await running.recommend()
    await running.client.get("/v1/users/u-42/export")
    await running.client.get("/nowhere/u-42")

    text = (await running.client.get("/metrics")).text
    samples = running.metrics()
    served = 'afterglow_served_total{model="napkin",scenario="home",tier="%s",version="%s"}'
    route = 'afterglow_http_request_duration_seconds_count{code="%s",method="%s",route="%s"}'
    assert samples[served % ("model", version)] == 1
    assert samples[served % ("popular", version)] == 1
    assert samples[route % (200, "POST", "/v1/recommend")] == 2
    assert samples[route % (200, "GET", "/v1/users/{user_id}/export")] == 1
    assert samples[route % (404, "any", "unmatched")] == 1
    assert samples["afterglow_inflight"] == 0
    assert samples['afterglow_stage_duration_seconds_count{stage="infer"}'] == 1
    assert "process_resident_memory_bytes" in text
    assert "u-42" not in text


async def test_no_metric_names_a_user_a_session_or_an_item(running: Running) -> None:
    await running.look("a", "b", user_id="u-42", session_id="s-42")
    await running.recommend(user_id="u-42", session_id="s-42")

    values = {
        value
        for family in running.service.metrics.registry.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }

    assert not values & {"u-42", "s-42", *ITEMS}


async def test_a_requests_log_line_tells_how_its_answer_came_about_without_raw_ids(running: Running) -> None:
    await running.look("a", user_id="u-42", session_id="s-42")

    reply = await running.recommend(user_id="u-42", session_id="s-42")

    line = running.log_lines()[-1]
    assert line["recommendation_id"] == reply["recommendation_id"]
    expected = {
        "event": "request",
        "level": "info",
        "route": "/v1/recommend",
        "status": 200,
        "scenario": "home",
        "tier": "model",
        "degraded": False,
        "reasons": [],
        "model": "napkin",
        "version": reply["served"]["model"]["version"],
        "state": "memory",
        "history_used": 1,
        "filtered_out": 1,
        "n_items": 3,
    }
    assert {name: line[name] for name in expected} == expected
    assert set(line["stages"]) == {"state", "queue", "infer", "total"}
    assert len(line["user"]) == 16
    assert b"-42" not in running.log.getvalue()


async def test_equal_users_have_equal_hashes_and_another_salt_has_others(start: Start) -> None:
    async def hashes(salt: str) -> list[str]:
        async with start(log_salt=salt) as running:
            for user_id in ("u1", "u2", "u1"):
                await running.recommend(user_id=user_id)
            return [line["user"] for line in running.log_lines()]

    first, other = await hashes("x"), await hashes("y")

    assert first[0] == first[2] != first[1]
    assert not set(first) & set(other)


async def test_a_path_with_an_id_is_logged_as_its_template(running: Running) -> None:
    await running.client.delete("/v1/users/u-42")
    await running.client.get("/v1/nowhere/u-42")

    assert [line["route"] for line in running.log_lines()] == ["/v1/users/{user_id}", "unmatched"]
    assert b"u-42" not in running.log.getvalue()


@pytest.mark.parametrize(("level", "logged"), [("info", []), ("debug", ["/livez", "/metrics"])])
async def test_probes_and_scrapes_are_logged_for_debugging_only(start: Start, level: str, logged: list[str]) -> None:
    async with start(log_level=level) as running:
        await asyncio.gather(*(running.client.get(path) for path in ("/livez", "/metrics")))

        assert sorted(line["route"] for line in running.log_lines()) == logged
