"""From a configuration to the parts that recognize; shared by daemon and commands, so that both decide alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kiosk.biometrics import ModelId
from kiosk.bundle import Bundle
from kiosk.bundle_choice import choose_bundle
from kiosk.config import Config
from kiosk.decision import DecisionRule
from kiosk.detector import BlazeFaceDetector, FrameDetector, HaarDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder, embedding_model_id
from kiosk.errors import ConfigError, PermissionDeniedError
from kiosk.gallery import Gallery, Readiness
from kiosk.guidance import Guide
from kiosk.pad import TflitePad, find_pad_bundle
from kiosk.ports import Detector, Pad
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE, QualityGate
from kiosk.recognition import Recognizer
from kiosk.trial import try_model

log = logging.getLogger(__name__)

# The notebook's crop: its detector knows no landmarks that could level the eyes.
_HAAR_ALIGNMENT = "haar-square-v1"
# The cascade finds ever more faces in wallpaper below this.
_HAAR_MIN_SIZE_PX = 40
_SAME_FACE_FMR = 1e-2
_DUPLICATE_FPIR = 1e-3
# A score that ten times fewer strangers reach decides with fewer frames (docs/recognition.md, visits).
_DECISIVE_FPIR_SHARE = 0.1
_VERIFICATION_FMR = 1e-3
# Two photos nearer to each other than this share of the distance that divides people (at FMR 1e-3) are nearly one
# picture. Frames half a second apart in two videos of one sitting: 75 and 99 % are (FaceNet; dlib's network 46 and
# 89 %); different photos of one person in LFW, some of which are one occasion's: 4 % (0.1 %).
_SAME_PICTURE_SHARE = 0.18
# Thresholds of the live score that were looked at (docs/pad.md): prints scored up to 0.016; at 0.95 a fifth of the
# living is refused.
_LOWEST_LIVE_SCORE, _HIGHEST_LIVE_SCORE = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The scores by which photos are held to show one person, or one moment; no network is loaded to know them.

    ``alignment``: of the crops in use; error rates hold for the crops they were measured with. ``configured_score``:
    ``match.threshold`` where it is a number; stands in for error rates that nobody has measured.
    """

    bundle: Bundle
    alignment: str
    configured_score: float | None = None

    @property
    def same_face_score(self) -> float:
        """Below it two embeddings are of different people, whatever else speaks for one."""
        return self._comparison_score(_SAME_FACE_FMR)

    @property
    def same_picture_score(self) -> float:
        """From it on two photos of a person show nearly the same picture."""
        return 1 - _SAME_PICTURE_SHARE * (1 - self._comparison_score(_VERIFICATION_FMR))

    def duplicate_rule(self, gallery: Gallery) -> DecisionRule:
        """By it a new face counts as one that is enrolled already."""
        score = self._stand_in_score
        if score is not None:
            return DecisionRule(score, margin=0.0)
        search = self.bundle.search_scores()
        threshold = search.threshold(gallery.subjects_by_templates, _DUPLICATE_FPIR) + gallery.score_shift
        return DecisionRule(threshold, 0.0, search.crowd_size, search.crowd_weight)

    def _comparison_score(self, fmr: float) -> float:
        score = self._stand_in_score
        return self.bundle.verification_threshold(fmr) if score is None else score

    @property
    def _stand_in_score(self) -> float | None:
        return None if _measured(self.bundle, self.alignment) else self.configured_score


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
    def frame_detector(self) -> Detector:
        """A new one for the frames of one camera."""
        return build_frame_detector(self.detector)

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
        """As :attr:`Yardstick.same_face_score`."""
        return self._yardstick.same_face_score

    @property
    def same_picture_score(self) -> float:
        """As :attr:`Yardstick.same_picture_score`."""
        return self._yardstick.same_picture_score

    def duplicate_rule(self, gallery: Gallery) -> DecisionRule:
        """As :meth:`Yardstick.duplicate_rule`."""
        return self._yardstick.duplicate_rule(gallery)

    @property
    def _yardstick(self) -> Yardstick:
        return Yardstick(self.bundle, self.embedder.alignment, self.configured_score)


def models_folder(config: Config) -> Path:
    """Where installed bundles live: beside the store.

    Raises:
        PermissionDeniedError: this user may not enter the store's folder.
    """
    folder = Path(config.store.path).parent
    try:
        (folder / "models").stat()
    except PermissionError:
        raise PermissionDeniedError(
            f"{folder}: the store's folder may not be entered by this user; run as its owner, or change store.path "
            "(KIOSK_STORE__PATH)"
        ) from None
    except OSError:
        # Not there, most of the time; whoever opens it tells.
        pass
    return folder / "models"


def open_bundle(config: Config) -> Bundle:
    """The bundle ``model.bundle`` asks for, verified; or what stands in for it (:mod:`kiosk.bundle_choice`).

    Raises:
        ModelError: there is none, or it is damaged.
    """
    return choose_bundle(config.model.bundle, models_folder(config)).bundle


def build_detector(config: Config) -> Detector:
    """Load the detector ``face.detector`` names."""
    if config.face.detector == "haar":
        return HaarDetector(min_size_px=max(config.face.min_size_px, _HAAR_MIN_SIZE_PX))
    return BlazeFaceDetector(min_score=config.face.min_score, runtime=config.model.runtime)


def build_frame_detector(detector: Detector) -> Detector:
    """For the frames of one camera, which follow each other."""
    return FrameDetector(detector) if isinstance(detector, BlazeFaceDetector) else detector


def build_embedder(config: Config, bundle: Bundle) -> TfliteEmbedder:
    """Load a bundle's network, after a trial in another process if it is none of the kiosk's own.

    Raises:
        ModelError: it does not survive the trial, or its shapes are not what the manifest states.
    """
    try_model(bundle, models_folder(config), threads=config.model.threads, runtime=config.model.runtime)
    alignment = _other_alignment(config)
    return TfliteEmbedder(bundle, threads=config.model.threads, runtime=config.model.runtime, alignment=alignment)


def try_bundle(config: Config, bundle: Bundle) -> None:
    """The self-test in a process of its own, whatever the bundle has passed before.

    Raises:
        ModelError: it does not pass.
    """
    threads, runtime = config.model.threads, config.model.runtime
    try_model(bundle, models_folder(config), threads=threads, runtime=runtime, again=True)


def build_pad(config: Config, *, again: bool = False) -> TflitePad | None:
    """Load presentation attack detection; None where it is switched off or not installed.

    ``again``: after a trial even if it has survived one.

    Raises:
        ModelError: its bundle is damaged, does not survive its trial, or does not load.
    """
    bundle = find_pad_bundle(models_folder(config)) if config.pad.enabled else None
    if bundle is None:
        return None
    threads, runtime = config.model.threads, config.model.runtime
    try_model(bundle, models_folder(config), threads=threads, runtime=runtime, again=again)
    return TflitePad(bundle, threads=threads, runtime=runtime)


def describe_pad(config: Config, pad: Pad | None) -> tuple[bool, str]:
    """Whether pictures of faces are refused and people are not, and in words by what or why not."""
    folder = models_folder(config)
    if not config.pad.enabled:
        return False, "off (pad.enabled): a photo may pass for a face"
    if pad is None:
        return False, f"no pad bundle in {folder}: a photo may pass for a face (kiosk-convert build pad --out {folder})"
    threshold = pad.threshold if config.pad.threshold == "auto" else config.pad.threshold
    if threshold <= 0:
        return False, f"{pad.model_id}, but pad.threshold is 0: a photo may pass for a face"
    told = f"a face is live from {threshold:g}"
    if not _LOWEST_LIVE_SCORE <= threshold <= _HIGHEST_LIVE_SCORE:
        source = "the bundle's pad.json" if config.pad.threshold == "auto" else "pad.threshold"
        effect = "a photo may pass for one" if threshold < _LOWEST_LIVE_SCORE else "many people are refused"
        sane = f"{_LOWEST_LIVE_SCORE:g} to {_HIGHEST_LIVE_SCORE:g}"
        return False, f"{pad.model_id}, but {told} ({source}): {effect}; sane is {sane} (pad.threshold sets it)"
    return True, f"{pad.model_id}, {told}"


def model_id_of(config: Config, bundle: Bundle) -> ModelId:
    """The id that templates made with this bundle carry; no network is loaded to know it."""
    return embedding_model_id(bundle, _other_alignment(config))


def _other_alignment(config: Config) -> str | None:
    return _HAAR_ALIGNMENT if config.face.detector == "haar" else None


def build_pipeline(config: Config, bundle: Bundle | None = None) -> Pipeline:
    """Load detector and embedder, of the bundle in use unless one is given.

    Raises:
        ModelError: a model is missing, damaged or does not load.
        ConfigError: the threshold is to follow from error rates that nobody has measured.
    """
    if bundle is None:
        choice = choose_bundle(config.model.bundle, models_folder(config))
        bundle = choice.bundle
        if choice.unwanted:
            log.warning("model %s stands in for the bundle that is asked for: %s", bundle.model_id, choice.why)
    check_threshold(config, bundle)
    gates = build_gate(config, PROBE_GATE), build_gate(config, ENROLLMENT_GATE)
    score = None if config.match.threshold == "auto" else config.match.threshold
    return Pipeline(bundle, build_detector(config), build_embedder(config, bundle), *gates, score)


def build_yardstick(config: Config, bundle: Bundle) -> Yardstick:
    """What the pipeline would judge photos by.

    Raises:
        ConfigError: the threshold is to follow from error rates that nobody has measured.
    """
    check_threshold(config, bundle)
    score = None if config.match.threshold == "auto" else config.match.threshold
    return Yardstick(bundle, _other_alignment(config) or bundle.manifest.alignment, score)


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
    return bundle.measured and alignment == bundle.manifest.alignment


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


def check_stand_in(config: Config, bundle: Bundle, asked: Bundle | None) -> None:
    """Raises ConfigError when a bundle cannot stand in for the one that is asked for (None: that cannot be read).

    A threshold in numbers is meant for one network: on another's scale it may make everybody somebody.
    """
    check_threshold(config, bundle)
    if config.match.threshold == "auto":
        return
    if asked is None:
        same = bundle.manifest.name == config.model.bundle
    else:
        same = bundle.manifest.source.sha256 == asked.manifest.source.sha256
    if not same:
        raise ConfigError(
            f"match.threshold: {config.match.threshold:g} is meant for another network's scores than those of "
            f"{bundle.model_id}, which would stand in; set match.threshold: auto, or install the one asked for"
        )


def build_rule(config: Config, bundle: Bundle, gallery: Gallery) -> DecisionRule:
    """The threshold that is configured, or the one that keeps the configured FPIR with a gallery like this."""
    margin = bundle.margin(config.match.margin)
    if config.match.threshold != "auto":
        return DecisionRule(config.match.threshold, margin)
    return _automatic_rule(bundle, gallery, config.match.fpir, margin)


def _automatic_rule(bundle: Bundle, gallery: Gallery, fpir: float, margin: float) -> DecisionRule:
    search = bundle.search_scores()
    threshold, decisive = (
        search.threshold(gallery.subjects_by_templates, rate) + gallery.score_shift
        for rate in (fpir, fpir * _DECISIVE_FPIR_SHARE)
    )
    return DecisionRule(threshold, margin, search.crowd_size, search.crowd_weight, decisive)


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
        pad=build_pad(config),
        live_score=None if config.pad.threshold == "auto" else config.pad.threshold,
    )


def build_guide(config: Config, pipeline: Pipeline, *, samples: int) -> Guide:
    """Who leads a person before the camera through an enrollment, with presentation attack detection where it is.

    Raises:
        ModelError: its bundle is damaged, or does not load.
    """
    return Guide(
        detector=pipeline.detector,
        embedder=pipeline.embedder,
        gate=pipeline.enrollment_gate,
        same_face_score=pipeline.same_face_score,
        same_picture_score=pipeline.same_picture_score,
        pad=build_pad(config),
        live_score=None if config.pad.threshold == "auto" else config.pad.threshold,
        samples=samples,
    )


def explain_threshold(config: Config, bundle: Bundle, gallery: Gallery) -> str:
    """The threshold in force and why, for a log line or a person."""
    rule = build_rule(config, bundle, gallery)
    left_out = f"; {len(gallery.lapsed)} not searched for, their consent has ended" if gallery.lapsed else ""
    if config.match.threshold != "auto":
        return f"threshold {rule.threshold:.3f} (match.threshold){left_out}"
    why = f"FPIR {config.match.fpir:g} with {len(gallery)} subjects of {_templates_text(gallery)}"
    if gallery.score_shift:
        why += f", {gallery.score_shift:+.3f} by `kiosk calibrate`"
    crowd = f"{rule.crowd_weight:g} of the mean score of the next {rule.crowd_size}"
    return f"threshold {rule.threshold:.3f} and {crowd} ({why}){left_out}"


def _templates_text(gallery: Gallery) -> str:
    counts = sorted(gallery.subjects_by_templates)
    if not counts:
        return "1 template"
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{span} template{'' if counts == [1] else 's'}"


def explain_accuracy(bundle: Bundle) -> str:
    """A bundle's measured accuracy in words."""
    accuracy = bundle.manifest.accuracy
    if accuracy is None:
        return "accuracy not measured"
    return f"accuracy {accuracy.value:.1%} on {accuracy.pairs} pairs ({accuracy.protocol})"


def describe_foreign(readiness: Readiness) -> str | None:
    """Who cannot be recognized for want of templates of this model, and what to type; None when all can be."""
    unrecognized = readiness.unrecognized
    if not unrecognized:
        return None
    everybody = len(unrecognized) + len(readiness.recognized)
    return (
        f"{len(unrecognized)} of {everybody} subjects cannot be recognized: they have only templates of another model "
        f"({_counts(readiness.stranded)}), which {readiness.model_id} does not compare; `kiosk subjects reenroll DIR` "
        "enrolls them again from their photos"
    )


def describe_kept(readiness: Readiness) -> str | None:
    """Templates of other models that nobody depends on, None when there are none or somebody does."""
    if readiness.unrecognized or not readiness.kept:
        return None
    kept = _counts(readiness.kept)
    return (
        f"templates of other models ({kept}) are kept for a way back; `kiosk subjects reenroll --drop-old` erases them"
    )


def _counts(templates: Mapping[ModelId, int]) -> str:
    return ", ".join(f"{count} of {model}" for model, count in sorted(templates.items()))
