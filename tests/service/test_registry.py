from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import ArtefactRefused, NotFound, SettingsError
from service.registry import Registry, load_registry
from service.served_model import is_within
from service.settings import Settings


@pytest.fixture
def settings_for(artefacts: Path, tmp_path: Path) -> Callable[[str | None], Settings]:
    """Settings with the artefacts and, where text is given, a scenarios file."""

    def make(text: str | None) -> Settings:
        if text is None:
            return Settings(artefacts=artefacts)
        path = tmp_path / "scenarios.toml"
        path.write_text(text)
        return Settings(artefacts=artefacts, scenarios=path)

    return make


Make = Callable[[str | None], Settings]


def test_a_scenarios_file_maps_names_to_models_and_their_policy(settings_for: Make) -> None:
    text = """
        default = "home"
        [scenario.home]
        retriever = "napkin@latest"
        count = 7
        deadline_ms = 40
        [scenario.cart]
        retriever = "counts"
        seen = "allow"
    """

    registry = load_registry(settings_for(text))

    home, cart = registry.scenario(None), registry.scenario("cart")
    assert (home.name, home.model.name, home.count, home.deadline_ms, home.seen) == ("home", "napkin", 7, 40, "exclude")
    assert (cart.model.name, cart.count, cart.deadline_ms, cart.seen) == ("counts", 10, 100, "allow")


@pytest.mark.parametrize(
    ("category", "is_inside"),
    [("Hair", True), ("Hair > Shampoos", True), ("Hairbrushes", False), ("Care > Hair", False), (None, False)],
)
def test_a_category_holds_what_is_below_it_and_nothing_that_only_begins_like_it(
    category: str | None, is_inside: bool
) -> None:
    assert is_within(category, ["Nails", "Hair"]) is is_inside


def test_an_artefact_that_two_scenarios_share_is_loaded_once(settings_for: Make) -> None:
    text = '[scenario.x]\nretriever = "napkin"\n[scenario.y]\nretriever = "napkin@latest"'
    told: list[tuple[str, int, int]] = []

    registry = load_registry(settings_for(text), lambda *step: told.append(step))

    assert registry.scenario("x").model is registry.scenario("y").model
    assert [(done, of) for _, done, of in told] == [(0, 1), (1, 1)]


def test_without_a_file_each_artefact_is_a_scenario_of_its_name(settings_for: Make) -> None:
    registry = load_registry(settings_for(None))

    assert sorted(registry.scenarios) == ["counts", "napkin", "plain"]
    with pytest.raises(NotFound) as unknown:
        registry.scenario(None)
    assert unknown.value.code == "unknown_scenario"


def test_the_only_scenario_is_the_default(registry: Registry) -> None:
    assert Registry([registry.scenario("best")]).scenario(None).name == "best"


def test_a_model_is_found_by_name_and_version(registry: Registry) -> None:
    model = registry.model("napkin", None)

    assert registry.model("napkin", model.version) is model
    for name, version in [("nobody", None), ("napkin", "20200101T000000Z-00000000")]:
        with pytest.raises(NotFound) as unknown:
            registry.model(name, version)
        assert unknown.value.code == "unknown_model"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default = ", "cannot be read as TOML"),
        ('default = "x"', "scenario: is missing"),
        ("[scenario]", "scenario: found {}, dictionary should have at least 1 item"),
        ("[scenario.home]\ncount = 5", "scenario.home.retriever: is missing"),
        ('[scenario.home]\nretriever = "napkin"\ncount = 0', "scenario.home.count: found 0, input should be greater"),
        ('[scenario.home]\nretriever = "napkin"\ncuont = 5', "scenario.home.cuont: is not a key of this file"),
        (
            '[scenario.home]\nretriever = "napkin"\nseen = "no"',
            "scenario.home.seen: found 'no', input should be 'exclude'",
        ),
        ('[scenario.home]\nretriever = "nobody"', "scenario.home.retriever: artefact 'nobody' is not in"),
        ('[scenario.home]\nretriever = "../x"', "scenario.home.retriever: artefact pointer '../x' is malformed"),
        (
            '[scenario.home]\nretriever = "napkin"\ncategories = ["Hair"]',
            "scenario.home.categories: no item of napkin@",
        ),
        ('[scenario.home]\nretriever = "napkin"\ncategories = []', "scenario.home.categories: found [], list should"),
        ('default = "x"\n[scenario.home]\nretriever = "napkin"', "default: found 'x', expected one of home"),
    ],
)
def test_a_wrong_scenarios_file_is_refused_with_file_key_found_and_expected(
    settings_for: Make, tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_registry(settings_for(text))

    assert str(refusal.value).startswith(str(tmp_path / "scenarios.toml"))
    assert said in str(refusal.value)


def test_a_scenarios_file_that_is_not_there_is_named(artefacts: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml: cannot be read as TOML: .*No such file"):
        load_registry(Settings(artefacts=artefacts, scenarios=tmp_path / "nothing.toml"))


def test_an_empty_folder_has_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="found no artefact, expected folders"):
        load_registry(Settings(artefacts=tmp_path))


def test_every_refused_artefact_is_named_with_its_reasons(artefacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artefacts, tmp_path / "all")
    for name, file in (("napkin", "items.npy"), ("counts", "encoder.onnx")):
        damaged = next((tmp_path / "all" / name).iterdir()) / file
        damaged.write_bytes(damaged.read_bytes()[:-1])

    with pytest.raises(ArtefactRefused) as refusal:
        load_registry(Settings(artefacts=tmp_path / "all"))

    assert any("napkin/" in reason and "items.npy" in reason for reason in refusal.value.reasons)
    assert any("counts/" in reason and "encoder.onnx" in reason for reason in refusal.value.reasons)
