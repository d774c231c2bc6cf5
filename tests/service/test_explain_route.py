"""`explain` and `diversity` of `/v1/recommend`, with the model in the process and behind a socket.

The catalogue of `napkin`, with categories, and a model of two queries: the last item, and the mean of the history.

    item      a       b       c       d       e       f       g (not available)
    vector    (4, 0)  (3, 1)  (2, 2)  (1, 3)  (0, 4)  (0, 1)  (9, 9)
    category  warm    warm    -       cold    cold    cold    -

After a a a e the queries are (0, 4) and (3, 1): d 12 by the first, b 10 by the second, c 8 by both, f 4 by the first.
The third model's query is the last item; its intents are the mean and the last, among items mirrored: a lies at (0, 4).

The phrase "something cold" lies at (0, 7): cosine 1 with (0, 4), 0.3162 with (3, 1), and 0.5 is the floor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from napkin import COUNTS, ITEMS, TABLE, FragileStore, ids
from torch import Tensor

from export.artefact import Draft, write_artefact
from export.graphs import EncoderGraph
from export.to_onnx import write_encoder
from models.contracts import EncoderInputs
from service.api.schemas import BatchReply, ModelsReply, RecommendReply
from service.app import create_app
from service.artefact.directory import open_artefact
from service.artefact.phrases import InterestPhrases
from service.artefact.tables import Catalogue
from service.inference.loader import load
from service.inference.local_engine import LocalEngine
from service.inference.remote_engine import RemoteEngine
from service.inference.remote_owner import EngineOwner
from service.logs import make_logger
from service.metrics import Metrics
from service.registry import Registry, Scenario
from service.served_model import ServedModel
from service.service import Service
from service.settings import Settings
from service.state.memory import MemoryStore

HISTORY = [{"item_id": item_id} for item_id in "aaae"]
CATEGORIES = ["warm", "warm", None, "cold", "cold", "cold", None]


class LastAndMean:
    """Two queries: the newest item's vector, and the mean over the history."""

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("custom", None, "left", "clean", 5, None, 2, 2, has_attention=True)

    def item_table(self) -> Tensor:
        return torch.from_numpy(TABLE)

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.encode_with_attention(vectors, item_seq, seq_len)[0]

    def encode_with_attention(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        real = (item_seq != 0).float()
        newest = real - torch.nn.functional.pad(real[:, 1:], (0, 1)).clamp(max=1) * real
        attention = torch.stack([newest, real / seq_len.clamp(min=1)[:, None]], dim=1)
        return attention @ vectors, attention


@pytest.fixture(scope="module")
def two_queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = EncoderGraph(LastAndMean())  # type: ignore[arg-type]  # no module, but all that is asked of one
    draft = Draft(
        name="two",
        paper=None,
        encoder=graph.spec,
        items=TABLE,
        catalogue=Catalogue(ITEMS, [None] * 7, CATEGORIES, np.array(COUNTS), np.array([item != "g" for item in ITEMS])),
        write_encoder=lambda folder: write_encoder(graph, folder) and None,
        has_attention=True,
        phrases=InterestPhrases(["odds and ends", "something cold"], np.array([[-1, -1], [0, 7]], np.float32), 0.5),
    )
    return write_artefact(draft, tmp_path_factory.mktemp("artefacts"))


class Foretelling:
    """One query, the newest item; a long-term intent at the mean of the history and a short-term one at the newest."""

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("custom", None, "left", "clean", 5, None, 2, 1, has_intents=True)

    def item_table(self) -> Tensor:
        return torch.from_numpy(TABLE)

    def intent_table(self) -> Tensor:
        return torch.from_numpy(TABLE[:, ::-1].copy())

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.encode_with_intents(vectors, item_seq, seq_len, None)[0]

    def encode_with_intents(
        self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor, titles: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        real = (item_seq != 0).float()[..., None]
        mean, newest = (vectors * real).sum(1) / seq_len.clamp(min=1)[:, None], vectors[:, -1] * real[:, -1]
        return newest[:, None], torch.stack([mean, newest], dim=1)


@pytest.fixture(scope="module")
def foretelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = EncoderGraph(Foretelling())  # type: ignore[arg-type]  # no module, but all that is asked of one
    draft = Draft(
        name="foretelling",
        paper=None,
        encoder=graph.spec,
        items=TABLE,
        catalogue=Catalogue(ITEMS, [None] * 7, [None] * 7, np.array(COUNTS), np.array([item != "g" for item in ITEMS])),
        write_encoder=lambda folder: write_encoder(graph, folder) and None,
        intents=graph.intent_items.numpy(),
    )
    return write_artefact(draft, tmp_path_factory.mktemp("artefacts"))


class Asked:
    """A service and a client to it."""

    def __init__(self, client: httpx.AsyncClient, store: FragileStore) -> None:
        self.client, self.store = client, store

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.client.post(path, json=body, headers={"X-Request-Timeout-Ms": "20000"})

    async def recommend(self, **body: Any) -> dict[str, Any]:
        response = await self.post("/v1/recommend", body)
        assert response.status_code == 200, response.text
        RecommendReply.model_validate(response.json())
        return dict(response.json())


@pytest.fixture(params=["thread", "process"])
async def asked(
    request: pytest.FixtureRequest, two_queries: Path, foretelling: Path, artefacts: Path, tmp_path: Path
) -> AsyncIterator[Asked]:
    folders = [two_queries, foretelling, next((artefacts / "napkin").iterdir()), next((artefacts / "counts").iterdir())]
    settings = Settings(log_level="error", deadline_ms=20_000)
    log = make_logger(settings)
    here = [ServedModel(load(folder, intra_op_threads=1, device="cpu")) for folder in folders]
    models, owner, make_engine = here, None, {}
    if request.param == "process":
        engine = LocalEngine(Metrics(), max_batch=4, max_waiting=100)
        engine.start()
        owner = EngineOwner(engine, here, log)
        await owner.listen(tmp_path / "socket")
        models = [ServedModel(open_artefact(folder)) for folder in folders]
        make_engine["make_engine"] = lambda _settings, metrics, clock: RemoteEngine(
            tmp_path / "socket", models, metrics, log, max_waiting=100, clock=clock
        )
    registry = Registry([Scenario(model.name, model, 3, 20_000, "exclude") for model in models], default="two")
    store = FragileStore(MemoryStore())
    service = Service(settings, store, lambda: registry, state_name="memory", log=log, **make_engine)
    app = create_app(service)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await service.until_loaded()
        if isinstance(service.engine, RemoteEngine):
            await service.engine.until_connected()
        yield Asked(client, store)
    if owner is not None:
        owner.close()


async def test_each_item_tells_its_query_in_words_and_what_weighs_most_in_it(asked: Asked) -> None:
    reply = await asked.recommend(history=HISTORY, count=4, explain=True)

    assert ids(reply) == ["d", "b", "c", "f"]
    cold = {"kind": "phrase", "text": "something cold", "similarity": 1.0}
    last = {"query": 0, "interest": cold, "because": {"item_id": "e", "weight": 1.0}}
    mean = {
        "query": 1,
        "interest": {"kind": "category", "text": "warm"},  # 0.3162 is below the floor
        "because": {"item_id": "a", "weight": 0.9},  # of 10 / 4: three looks give <a, b> = 12 each, e gives 4
    }
    assert [item["explanation"] for item in reply["items"]] == [last, mean, last, last]
    assert reply["served"]["explained"] is True


async def test_explained_lists_are_the_same_lists(asked: Asked) -> None:
    plain = await asked.recommend(history=HISTORY)
    explained = await asked.recommend(history=HISTORY, explain=True)

    without = [{name: item[name] for name in ("item_id", "score", "rank")} for item in explained["items"]]
    assert plain["items"] == without
    assert "explained" not in plain["served"]
    assert "diversity" not in plain["served"]


async def test_an_item_without_a_category_whose_query_has_no_phrase_has_no_words(asked: Asked) -> None:
    # The mean of c and a: (3, 1), and the last item (4, 0), are both far from the phrase; g is not available.
    reply = await asked.recommend(history=[{"item_id": "b"}, {"item_id": "a"}], explain=True)

    found = {item["item_id"]: item["explanation"] for item in reply["items"]}
    assert "interest" not in found["c"]
    assert found["d"]["interest"] == {"kind": "category", "text": "cold"}


async def test_a_model_that_tells_nothing_of_itself_is_not_spoken_for(asked: Asked) -> None:
    reply = await asked.recommend(scenario="napkin", history=[{"item_id": "a"}], explain=True)

    assert [item["explanation"] for item in reply["items"]] == [{"query": 0}] * 3


async def test_a_model_that_needs_no_history_is_asked_without_one(asked: Asked) -> None:
    reply = await asked.recommend(scenario="counts", explain=True)

    assert (ids(reply), reply["served"]["tier"]) == (["c", "a", "d"], "model")
    assert [item["explanation"] for item in reply["items"]] == [{"query": 0}] * 3


async def test_intents_are_told_by_the_items_nearest_to_them(asked: Asked) -> None:
    reply = await asked.recommend(scenario="foretelling", history=HISTORY, explain=True)

    # The mean of a a a e is (3, 1): mirrored d lies there, e (4, 0) and f (1, 0) nearly, and g is not available.
    # The newest is e, (0, 4), where mirrored a lies; b is (1, 3), c (2, 2).
    assert reply["intents"] == {
        "long": [
            {"item_id": "d", "similarity": 1.0},
            {"item_id": "e", "similarity": 0.9487},
            {"item_id": "f", "similarity": 0.9487},
        ],
        "short": [
            {"item_id": "a", "similarity": 1.0},
            {"item_id": "b", "similarity": 0.9487},
            {"item_id": "c", "similarity": 0.7071},
        ],
    }
    assert [item["explanation"] for item in reply["items"]] == [{"query": 0}] * 3


async def test_intents_are_told_to_those_who_ask_of_models_that_have_them(asked: Asked) -> None:
    unasked = await asked.recommend(scenario="foretelling", history=HISTORY)
    cold = await asked.recommend(scenario="foretelling", explain=True)
    other = await asked.recommend(history=HISTORY, explain=True)

    assert cold["served"]["tier"] == "popular"
    assert all("intents" not in reply for reply in (unasked, cold, other))


async def test_lower_tiers_have_no_reasons_and_say_so(asked: Asked) -> None:
    await asked.post("/v1/events", {"events": [{"type": "view", "item_id": "a", "user_id": "u1"}]})
    good = await asked.recommend(user_id="u1", explain=True, diversity=0.5)
    cold = await asked.recommend(explain=True, diversity=0.5)
    asked.store.away = True
    kept = await asked.recommend(user_id="u1", explain=True, diversity=0.5)

    assert (good["served"]["tier"], good["served"]["explained"], good["served"]["diversity"]) == ("model", True, 0.5)
    for reply, tier in ((cold, "popular"), (kept, "cache")):
        assert (reply["served"]["tier"], reply["served"]["explained"], reply["served"]["diversity"]) == (tier, False, 0)
        assert all("explanation" not in item for item in reply["items"])


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [
        # After e both queries are (0, 4): d 12, c 8, f 4, a 0 without b; relevance 1, 2/3, 1/3, 0.
        # d and f are cold, c is the first query's, a is warm. Third place, S = d c: f 1/3 (1 - x) + x / 2, a x.
        (0, ["d", "c", "f"]),
        (0.3, ["d", "c", "f"]),  # 0.383 against 0.3
        (0.5, ["d", "c", "a"]),  # 0.417 against 0.5
        (1, ["d", "c", "a"]),
    ],
)
async def test_a_list_is_as_varied_as_was_asked(asked: Asked, diversity: float, expected: list[str]) -> None:
    ask = {"history": [{"item_id": "e"}], "exclude": {"item_ids": ["b"]}, "diversity": diversity}
    reply = await asked.recommend(**ask, explain=True)

    assert ids(reply) == expected
    scores = {"d": 12, "c": 8, "f": 4, "a": 0}
    assert [(item["score"], item["rank"]) for item in reply["items"]] == [
        (scores[item_id], rank) for rank, item_id in enumerate(expected, start=1)
    ]
    assert reply["items"][2]["explanation"]["interest"]["text"] == "something cold"


async def test_diversity_does_not_change_what_is_kept_for_an_outage(asked: Asked) -> None:
    await asked.post("/v1/events", {"events": [{"type": "view", "item_id": "e", "user_id": "u1"}]})
    assert ids(await asked.recommend(user_id="u1", exclude={"item_ids": ["b"]}, diversity=1)) == ["d", "c", "a"]
    asked.store.away = True

    assert ids(await asked.recommend(user_id="u1", exclude={"item_ids": ["b"]})) == ["d", "c", "f"]


async def test_sub_requests_of_a_batch_are_explained_one_by_one(asked: Asked) -> None:
    body = {"requests": [{"history": HISTORY, "explain": True}, {"history": HISTORY}, {"diversity": 2}]}
    results = (await asked.post("/v1/recommend/batch", body)).json()["results"]

    BatchReply.model_validate({"results": results})
    assert results[0]["items"][1]["explanation"]["because"] == {"item_id": "a", "weight": 0.9}
    assert "explanation" not in results[1]["items"][1]
    assert results[2]["status"] == 422


@pytest.mark.parametrize("field", [{"diversity": -0.1}, {"diversity": 1.5}, {"diversity": "0.5"}, {"explain": 1}])
async def test_what_is_no_wish_of_the_kind_is_refused(asked: Asked, field: dict[str, Any]) -> None:
    response = await asked.post("/v1/recommend", {"history": HISTORY, **field})

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")


async def test_models_tell_what_their_explanations_can_hold(asked: Asked) -> None:
    reply = (await asked.client.get("/v1/models")).json()

    ModelsReply.model_validate(reply)
    parts = {model["name"]: model["explanations"] for model in reply["models"]}
    nothing = {"phrases": 0, "similarity_floor": None, "categories": False, "because": False, "intents": False}
    assert parts["napkin"] == nothing
    assert parts["foretelling"] == nothing | {"intents": True}
    assert parts["two"] == nothing | {"phrases": 2, "similarity_floor": 0.5, "categories": True, "because": True}


def test_a_graph_is_asked_for_attention_only_where_somebody_wants_to_know(
    two_queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ServedModel(load(two_queries, intra_op_threads=1, device="cpu"))
    session, named = model._retriever._session, list[list[str]]()

    class Noting:
        def run(self, names: list[str], inputs: Any) -> Any:
            named.append(names)
            return session.run(names, inputs)

    monkeypatch.setattr(model._retriever, "_session", Noting())
    none = np.empty(0, np.int64)
    (plain,) = model.search("recommend", [[1, 5]], 3, [none])
    (explained,) = model.search("explain", [[1, 5]], 3, [none])

    assert named == [["queries"], ["queries", "attention"]]
    assert explained[0].tolist() == plain[0].tolist()


def test_attention_of_a_batch_is_told_of_real_items_alone(two_queries: Path) -> None:
    model = ServedModel(load(two_queries, intra_op_threads=1, device="cpu"))
    short, long = model._retriever.read([[5], [1, 2, 3, 4]])

    assert short.attention is not None
    assert long.attention is not None
    assert short.attention.tolist() == [[1], [1]]
    assert long.attention.tolist() == [[0, 0, 0, 1], [0.25] * 4]
    assert short.queries.tolist() == [[0, 4], [0, 4]]
