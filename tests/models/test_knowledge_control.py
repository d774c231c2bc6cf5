from __future__ import annotations

from typing import Any

import numpy as np

from models import runs
from models.knowledge.store import Knowledge
from models.knowledge_control import shuffled


def _knowledge() -> Knowledge:
    return Knowledge(
        item_vectors=np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], dtype=np.float32),
        user_vectors=np.array([[10.0], [11.0], [12.0], [13.0]], dtype=np.float32),
        similar_users=np.array([[1], [0], [3], [2]], dtype=np.int32),  # 10 is near 11, 12 is near 13
        pca_mean=np.zeros(1, dtype=np.float32),
        pca_components=np.ones((1, 1), dtype=np.float32),
        provenance={"encoder": "x"},
    )


def test_shuffled_items_have_each_others_vectors_and_padding_keeps_its_own() -> None:
    plain = _knowledge()
    control = shuffled(plain, ("items",), seed=1)
    assert control.item_vectors[0] == 0
    assert sorted(control.item_vectors[1:, 0]) == [1, 2, 3, 4, 5]
    assert (control.item_vectors != plain.item_vectors).any()
    assert (control.similar_users == plain.similar_users).all()
    assert control.provenance == {"encoder": "x", "shuffled": {"what": ["items"], "seed": 1}}
    assert (control.item_vectors == shuffled(plain, ("items",), seed=1).item_vectors).all()
    assert "shuffled" not in plain.provenance


def test_the_neighbours_of_shuffled_users_follow_the_texts() -> None:
    control = shuffled(_knowledge(), ("users",), seed=3)
    texts = control.user_vectors[:, 0]
    assert texts.tolist() != [10, 11, 12, 13]
    near = {10: 11, 11: 10, 12: 13, 13: 12}
    assert [texts[neighbour] for neighbour in control.similar_users[:, 0]] == [near[text] for text in texts]


def test_a_run_on_shuffled_knowledge_says_so(make_config: Any) -> None:
    config = make_config()
    data = config.data.model_copy(update={"shuffle_knowledge": ("items",), "shuffle_seed": 4})
    inputs = runs.load_inputs(config.model_copy(update={"data": data}))
    plain = runs.load_inputs(config).knowledge
    assert inputs.knowledge is not None
    assert plain is not None
    assert inputs.knowledge.provenance["shuffled"] == {"what": ["items"], "seed": 4}
    assert (inputs.knowledge.item_vectors != plain.item_vectors).any()
