"""What a person can do about a face that is not good enough; said at enrollment, at the door and by ``kiosk why``."""

from __future__ import annotations

from kiosk.biometrics import Quality, Reason

_ADVICE = {
    Reason.TOO_SMALL: "the face is too small ({eyes}); come closer, or use a larger picture",
    Reason.BLURRED: "the face is blurred (sharpness {quality.sharpness:.0f}); hold still, or take a sharper photo",
    Reason.TOO_DARK: "the face is too dark (brightness {quality.brightness:.0f} of 255); add light",
    Reason.TOO_BRIGHT: "the face is too bright (brightness {quality.brightness:.0f} of 255); reduce light",
    Reason.LOW_CONTRAST: "the face is too pale ({contrast}); clean the lens, and have no bright light behind the head",
    Reason.TURNED: "the face is turned away; look straight into the camera",
    Reason.UNCLEAR: "the face is hard to make out ({score}); uncover it and hold the head upright, in even light",
}


def advise(quality: Quality) -> str:
    """What is wrong with a face that a gate rejected, and how to mend it, in one line.

    Raises:
        ValueError: nothing is wrong with it.
    """
    if quality.failure not in _ADVICE:
        raise ValueError(f"no advice for {quality.failure}")
    return _ADVICE[quality.failure].format(
        quality=quality,
        eyes=_figure(quality.eye_distance_px, "{:.0f} px between the eyes", f"{quality.size_px:.0f} px wide"),
        contrast=_figure(quality.contrast, "contrast {:.0f}", "no contrast"),
        score=_figure(quality.detector_score, "detector score {:.2f}", "low detector score"),
    )


def _figure(value: float | None, text: str, unmeasured: str) -> str:
    return unmeasured if value is None else text.format(value)
