"""From a configuration to the parts that recognize; shared by daemon and commands, so that both decide alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kiosk.biometrics import ModelId
from kiosk.bundle import Bundle, select_bundle
from kiosk.config import Config
from kiosk.decision import DecisionRule
from kiosk.detector import BlazeFaceDetector, HaarDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import ConfigError
from kiosk.gallery import Gallery
from kiosk.ports import Detector
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE, QualityGate
from kiosk.recognition import Recognizer

# The notebook's crop: its detector knows no landmarks that could level the eyes.
_HAAR_ALIGNMENT = "haar-square-v1"
# The cascade finds ever more faces in wallpaper below this.
_HAAR_MIN_SIZE_PX = 40
_SAME_FACE_FMR = 1e-2
_DUPLICATE_FPIR = 1e-3
_VERIFICATION_FMR = 1e-3
# Two photos nearer to each other than this share of the distance that divides people (at FMR 1e-3) are nearly one
# picture. Frames half a second apart in two videos of one sitting: 75 and 99 % are (FaceNet; dlib's network 46 and
# 89 %); different photos of one person in LFW, some of which are one occasion's: 4 % (0.1 %).
_SAME_PICTURE_SHARE = 0.18


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The loaded models, and the scores that decide."""

    bundle: Bundle
    detector: Detector
    embedder: TfliteEmbedder
    gate: QualityGate
    enrollment_gate: QualityGate
    """Stricter: for photos that become templates."""
    configured_score: float | None = None
    """``match.threshold`` where it is a number; stands in for error rates that nobody has measured."""

    @property
    def photo_detector(self) -> Detector:
        """For a photo of one person, whose face may be small."""
        return PhotoDetector(self.detector)

    @property
    def group_detector(self) -> Detector:
        """For a photo of many people: every face, large and small."""
        return PhotoDetector(self.detector, exhaustive=True)

    @property
    def same_face_score(self) -> float:
        """Below it two embeddings are of different people, whatever else speaks for one."""
        return self._score(1, _SAME_FACE_FMR)

    @property
    def same_picture_score(self) -> float:
        """From it on two photos of a person show nearly the same picture."""
        return 1 - _SAME_PICTURE_SHARE * (1 - self._score(1, _VERIFICATION_FMR))

    def duplicate_score(self, gallery: Gallery) -> float:
        """From it on a new face counts as one that is enrolled already."""
        return self._score(len(gallery), _DUPLICATE_FPIR)

    def _score(self, subjects: int, fpir: float) -> float:
        if self.configured_score is not None and not _measured(self.bundle, self.embedder.alignment):
            return self.configured_score
        return self.bundle.identification_threshold(gallery_templates=subjects, fpir=fpir)


def models_folder(config: Config) -> Path:
    """Where installed bundles live: beside the store."""
    return Path(config.store.path).parent / "models"


def open_bundle(config: Config) -> Bundle:
    """The bundle ``model.bundle`` asks for, verified.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    return select_bundle(config.model.bundle, models_folder(config))


def build_detector(config: Config) -> Detector:
    """Load the detector ``face.detector`` names."""
    if config.face.detector == "haar":
        return HaarDetector(min_size_px=max(config.face.min_size_px, _HAAR_MIN_SIZE_PX))
    return BlazeFaceDetector(min_score=config.face.min_score, runtime=config.model.runtime)


def build_embedder(config: Config, bundle: Bundle) -> TfliteEmbedder:
    """Load a bundle's network.

    Raises:
        ModelError: its shapes are not what the manifest states.
    """
    alignment = _HAAR_ALIGNMENT if config.face.detector == "haar" else None
    return TfliteEmbedder(bundle, threads=config.model.threads, runtime=config.model.runtime, alignment=alignment)


def build_pipeline(config: Config) -> Pipeline:
    """Load detector and embedder.

    Raises:
        ModelError: a model is missing, damaged or does not load.
        ConfigError: the threshold is to follow from error rates that nobody has measured.
    """
    bundle = open_bundle(config)
    check_threshold(config, bundle)
    gates = build_gate(config, PROBE_GATE), build_gate(config, ENROLLMENT_GATE)
    score = None if config.match.threshold == "auto" else config.match.threshold
    return Pipeline(bundle, build_detector(config), build_embedder(config, bundle), *gates, score)


def build_gate(config: Config, measured: QualityGate) -> QualityGate:
    """The measured limits, but for those that the configuration sets."""
    face = config.face
    limits: dict[str, float] = {"min_size_px": face.min_size_px}
    if face.min_eye_distance_px != "auto":
        limits["min_eye_distance_px"] = face.min_eye_distance_px
    if face.min_sharpness != "auto":
        limits["min_sharpness"] = face.min_sharpness
    return replace(measured, **limits)


def _measured(bundle: Bundle, alignment: str) -> bool:
    """Error rates hold for the crops they were measured with."""
    return bool(bundle.manifest.thresholds) and alignment == bundle.manifest.alignment


def check_threshold(config: Config, bundle: Bundle) -> None:
    """Raises ConfigError when the threshold is to follow from error rates that nobody has measured."""
    haar = config.face.detector == "haar"
    if config.match.threshold == "auto" and not _measured(
        bundle, _HAAR_ALIGNMENT if haar else bundle.manifest.alignment
    ):
        what = "face.detector: haar" if haar else f"bundle {bundle.manifest.name}"
        raise ConfigError(
            f"match.threshold: auto needs error rates, and none were measured for {what}; set match.threshold to a "
            "score (the notebook's was 0.6, for FaceNet)"
        )


def build_rule(config: Config, bundle: Bundle, gallery: Gallery) -> DecisionRule:
    """The threshold that is configured, or the one that keeps the configured FPIR with a gallery of this size."""
    threshold = config.match.threshold
    if threshold == "auto":
        threshold = bundle.identification_threshold(gallery_templates=len(gallery), fpir=config.match.fpir)
    return DecisionRule(threshold=threshold, margin=bundle.margin(config.match.margin))


def build_recognizer(
    config: Config, pipeline: Pipeline, gallery: Gallery, *, detector: Detector | None = None
) -> Recognizer:
    """The recognizer over this gallery, with the pipeline's detector unless another is given."""
    return Recognizer(
        detector=detector or pipeline.detector,
        embedder=pipeline.embedder,
        gate=pipeline.gate,
        gallery=gallery,
        rule=build_rule(config, pipeline.bundle, gallery),
        same_face_score=pipeline.same_face_score,
        frames=config.match.frames,
        window_s=config.match.window_s,
    )


def explain_threshold(config: Config, bundle: Bundle, gallery: Gallery) -> str:
    """The threshold in force and why, for a log line or a person."""
    rule = build_rule(config, bundle, gallery)
    if config.match.threshold != "auto":
        return f"threshold {rule.threshold:.3f} (match.threshold)"
    return f"threshold {rule.threshold:.3f} (FPIR {config.match.fpir:g} with {len(gallery)} subjects)"


def explain_accuracy(bundle: Bundle) -> str:
    """A bundle's measured accuracy in words."""
    accuracy = bundle.manifest.accuracy
    if accuracy is None:
        return "accuracy not measured"
    return f"accuracy {accuracy.value:.1%} on {accuracy.pairs} pairs ({accuracy.protocol})"


def describe_foreign(gallery: Gallery, models: Mapping[ModelId, int]) -> str | None:
    """What to say about templates of other models, None when there are none. ``models``: templates per model id."""
    foreign = {model: count for model, count in models.items() if model != gallery.model_id}
    if not foreign:
        return None
    made_with = ", ".join(f"{count} made with {model}" for model, count in sorted(foreign.items()))
    return f"templates of another model are not compared: {made_with}; re-enroll these subjects"
