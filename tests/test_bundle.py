import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kiosk.bundle import (
    BUILT_IN,
    BUILT_IN_BUNDLE,
    Bundle,
    Manifest,
    OperatingPoint,
    find_bundles,
    place,
    read_bundle,
    select_bundle,
)
from kiosk.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "models" / "mine"
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, target)
    return target


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def measured(points: list[tuple[float, float]]) -> Bundle:
    bundle = read_bundle(BUILT_IN / BUILT_IN_BUNDLE)
    thresholds = tuple(OperatingPoint(fmr=fmr, score=score) for fmr, score in points)
    search = bundle.manifest.search if points else None
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"thresholds": thresholds, "search": search}))


def test_the_built_in_bundle_is_sound_and_measured() -> None:
    bundle = read_bundle(BUILT_IN / BUILT_IN_BUNDLE)
    assert bundle.built_in
    assert bundle.model_id == f"dlib-resnet29-int8@{bundle.manifest.tflite_sha256[:6]}"
    assert bundle.manifest.accuracy is not None
    assert len(bundle.manifest.thresholds) >= 3
    assert bundle.model_path.stat().st_size < 7_000_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.tflite").write_bytes(b"x"), "SHA-256"),
        (lambda f: (f / "model.tflite").unlink(), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
        (lambda f: (f / "manifest.json").write_bytes(b""), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe{"), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda f: edit(f, embedding_dim="many"), "embedding_dim"),
        (lambda f: edit(f, surprise=1), "surprise"),
        (lambda f: edit(f, schema=2), "schema"),
        (lambda f: edit(f, alignment="sideways"), "alignment"),
    ],
    ids=[
        "hash",
        "model-missing",
        "no-manifest",
        "empty",
        "not-utf8",
        "deep",
        "type",
        "unknown-key",
        "schema",
        "alignment",
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_built_in_one_until_another_is_installed(folder: Path, tmp_path: Path) -> None:
    assert select_bundle("auto", tmp_path / "nothing").manifest.name == BUILT_IN_BUNDLE
    edit(folder, name="mine", accuracy=None)
    assert select_bundle("auto", folder.parent).manifest.name == "mine"


def test_auto_prefers_accuracy_then_the_smaller_variant(folder: Path) -> None:
    def add(name: str, variant: str, value: float) -> None:
        shutil.copytree(folder, folder.parent / name, dirs_exist_ok=True)
        accuracy = {"protocol": "p", "pairs": 1000, "value": value, "threshold": 0.5, "undetected": 0}
        edit(folder.parent / name, name=name, variant=variant, accuracy=accuracy)

    add("poor", "int8", 0.95)
    add("large", "float32", 0.9951)
    add("small", "int8", 0.9949)
    shutil.rmtree(folder)
    names = [bundle.manifest.name for bundle in find_bundles(folder.parent)]
    assert names == ["small", "large", "poor", BUILT_IN_BUNDLE]


def test_a_planned_change_is_chosen_from_as_if_it_had_happened(folder: Path, tmp_path: Path) -> None:
    edit(folder, name="mine")
    models = tmp_path / "empty"
    planned = {place(models / "mine"): Bundle(models / "mine", read_bundle(folder).manifest)}
    assert select_bundle("auto", models).built_in
    for wanted in ("auto", "mine", str(models / "mine")):
        assert select_bundle(wanted, models, planned).folder == models / "mine"
    gone = {place(folder): None}
    assert select_bundle("auto", folder.parent, gone).built_in
    for wanted in ("mine", str(folder)):
        assert select_bundle(wanted, folder.parent).folder == folder
        with pytest.raises(ModelError, match="no bundle"):
            select_bundle(wanted, folder.parent, gone)


def test_a_damaged_installed_bundle_stops_auto_unless_it_is_to_be_replaced_or_removed(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"kiosk model remove mine"):
        select_bundle("auto", folder.parent)
    assert select_bundle("auto", folder.parent, {place(folder): None}).built_in
    assert select_bundle("auto", folder.parent, {place(folder): Bundle(folder, manifest)}).folder == folder


def test_a_name_a_folder_or_one_clear_line(folder: Path) -> None:
    assert select_bundle("mine", folder.parent).folder == folder
    assert select_bundle(str(folder), Path("/nonexistent")).folder == folder
    assert select_bundle(BUILT_IN_BUNDLE, folder.parent).built_in
    with pytest.raises(ModelError, match="no bundle 'other'"):
        select_bundle("other", folder.parent)


def test_the_1_to_1_threshold_follows_the_measured_points() -> None:
    bundle = measured([(1e-2, 0.4), (1e-3, 0.5), (1e-4, 0.58)])
    assert bundle.verification_threshold() == pytest.approx(0.5)
    assert bundle.verification_threshold(1e-4) == pytest.approx(0.58)
    assert bundle.verification_threshold(1e-5) == pytest.approx(0.66)
    assert bundle.verification_threshold(10**-2.5) == pytest.approx(0.45)


def test_the_margin_shrinks_with_a_models_spread_of_scores() -> None:
    assert measured([(1e-2, 0.4), (1e-3, 0.5)]).margin(0.05) == pytest.approx(0.05)
    assert measured([(1e-2, 0.88), (1e-3, 0.92)]).margin(0.05) == pytest.approx(0.01)


def test_an_unmeasured_bundle_has_no_threshold_to_offer() -> None:
    bundle = measured([])
    with pytest.raises(ModelError, match=r"set match\.threshold"):
        bundle.verification_threshold()
    with pytest.raises(ModelError, match=r"set match\.threshold"):
        bundle.search_scores()
    assert not bundle.measured
    assert bundle.margin(0.05) == 0.05


def test_auto_prefers_the_built_in_one_to_an_unmeasured_one(folder: Path) -> None:
    edit(folder, name="mine", thresholds=[])
    assert select_bundle("auto", folder.parent).manifest.name == BUILT_IN_BUNDLE
    assert select_bundle("mine", folder.parent).manifest.name == "mine"


def test_manifest_survives_a_round_trip() -> None:
    manifest = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json(by_alias=True)) == manifest


SEARCH = json.loads((BUILT_IN / BUILT_IN_BUNDLE / "manifest.json").read_text())["search"]


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": [{"fmr": 1e-3, "score": 0.9}, {"fmr": 1e-3, "score": 0.8}]},
        {"thresholds": [{"fmr": 1e-3, "score": float("nan")}]},
        {"search": SEARCH | {"fpirs": [0.1, 0.0]}},
        {"search": SEARCH | {"fpirs": [0.001, 0.1]}},
        {"search": SEARCH | {"galleries": [SEARCH["galleries"][0] | {"scores": [0.5]}]}},
        {"search": SEARCH | {"galleries": [SEARCH["galleries"][0], SEARCH["galleries"][0]]}},
        {
            "search": SEARCH
            | {"galleries": [SEARCH["galleries"][0] | {"scores": [float("inf")] * len(SEARCH["fpirs"])}]}
        },
    ],
)
def test_figures_nothing_can_be_computed_from_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    """Found by fuzzing: each was a traceback, or a threshold that is no number, once the daemon asked for it."""
    edit(folder, **changes)
    with pytest.raises(ModelError, match=r"manifest\.json: (thresholds|search)"):
        read_bundle(folder)
