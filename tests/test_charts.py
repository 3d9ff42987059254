"""Charts are PNG files that show what they are given, and leave no global state behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kiosk import charts
from kiosk.charts import Axis, Line, Scores, Threshold, draw_curves, draw_scores
from kiosk.errors import OutputError
from kiosk.opencv import cv2

RATE = Axis("rate", "log", 1e-4, 1.0)


def panel(label: str, centre: float) -> Scores:
    random = np.random.default_rng(1)
    return Scores(
        label, random.normal(centre, 0.1, 500), random.normal(0.1, 0.1, 2000), [Threshold(0.4, "threshold")]
    )  # fmt: skip


def colours(path: Path) -> set[tuple[int, ...]]:
    """The distinct BGR colours of a picture, rounded to steps of eight."""
    image = cv2.imread(str(path))
    assert image is not None
    return {tuple(row) for row in (image.reshape(-1, 3) // 8).tolist()}


def bgr(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) // 8 for start in (5, 3, 1))


def test_a_histogram_has_a_panel_for_each_run(tmp_path: Path) -> None:
    one, three = tmp_path / "one.png", tmp_path / "three.png"
    draw_scores(one, [panel("a", 0.7)], title="Scores")
    draw_scores(three, [panel("a", 0.7), panel("b", 0.5), panel("c", 0.9)], title="Scores")
    heights = [cv2.imread(str(path)).shape[0] for path in (one, three)]  # type: ignore[union-attr]
    assert heights[1] > 2 * heights[0]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "values", [np.empty(0), np.array([0.5]), np.array([0.5, 0.5, 0.5])], ids=["none", "one", "equal"]
)
def test_a_histogram_of_hardly_anything(tmp_path: Path, values: np.ndarray) -> None:
    draw_scores(tmp_path / "a.png", [Scores("a", values, np.empty(0))], title="Scores")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_every_line_has_its_colour(tmp_path: Path) -> None:
    x = np.array([0.0, 1e-3, 1e-2, 0.1, 1.0])
    lines = [Line(f"run {number}", x, x ** (0.1 * number), [(1e-2, 0.5)]) for number in range(1, 6)]
    draw_curves(tmp_path / "roc.png", lines, title="ROC", x=RATE, y=Axis("TAR"))
    seen = colours(tmp_path / "roc.png")
    assert [colour for colour in charts._COLOURS[:5] if bgr(colour) not in seen] == []
    assert bgr(charts._COLOURS[5]) not in seen


def test_more_lines_than_colours(tmp_path: Path) -> None:
    x = np.array([0.01, 1.0])
    draw_curves(tmp_path / "a.png", [Line(str(n), x, x) for n in range(20)], title="a", x=RATE, y=RATE)
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("lines", [[], [Line("empty", np.empty(0), np.empty(0))]], ids=["no lines", "no points"])
def test_a_chart_of_nothing(tmp_path: Path, lines: list[Line]) -> None:
    draw_curves(tmp_path / "a.png", lines, title="a", x=RATE, y=Axis("y", "probit", 1e-4, 0.5))
    assert (tmp_path / "a.png").exists()


def test_on_probit_axes_two_normal_distributions_are_a_straight_line() -> None:
    # Normal deviates: 0.1 % is -3.09, 2.3 % is -2, half is 0.
    shares = np.array([0.00135, 0.02275, 0.5, 0.97725])
    assert charts._probit(shares) == pytest.approx([-3, -2, 0, 2], abs=1e-3)
    assert charts._normal_share(charts._probit(shares)) == pytest.approx(shares)
    assert np.isfinite(charts._probit(np.array([0.0, 1.0]))).all()


def test_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.png: cannot be written: No such file"):
        draw_curves(tmp_path / "none" / "a.png", [], title="a", x=RATE, y=RATE)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        draw_scores(tmp_path / "taken.png", [panel("a", 0.7)], title="Scores")
    assert not list(tmp_path.glob("*.part"))


def test_drawing_needs_no_display_and_no_home(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from kiosk.charts import Scores, draw_scores\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw_scores(Path(sys.argv[1]), [Scores('a', np.ones(3), np.zeros(3))], title='a')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.png")],
        cwd=Path(__file__).parent.parent,
        env={"HOME": "/proc/nowhere", "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "a.png").exists()
