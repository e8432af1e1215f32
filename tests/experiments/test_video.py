import av
import numpy as np
import pytest

from experiments.job.report import new_figure
from experiments.reports.plots import plot_text
from experiments.reports.video import Curves, write_film


def test_a_film_shows_every_step_with_the_curves_under_the_pictures(tmp_path):
    steps, side = 6, 64
    views = np.random.default_rng(0).integers(0, 255, (steps + 1, 3, side, side, 3)).astype(np.uint8)
    progress = np.array([0.0, 0.3, 0.6, 0.9], np.float32)
    rewards = np.full(steps, 0.1, np.float32)
    curves = Curves(np.array([0, 2, 4, 6]), progress, np.tile(progress[:, None], 3), np.arange(steps + 1), rewards)
    path = write_film(tmp_path / "film.mp4", enumerate(views), curves, "title", fps=5)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == steps + 1 + 5
    strip_height = 5 * side
    assert frames[0].shape[1] == 3 * strip_height
    first, last = (frames[i][strip_height:].astype(int) for i in (0, -1))
    assert (np.abs(first - last).max(axis=2) > 60).sum() > 100, "nothing was drawn between the first and the last step"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


NAMES = [
    "pay_$5_and_$_change",
    "a^b_{c$",
    r"\frac$1$",
    "名前 🤖",
    "line\nbreak\x1b[2J",
    "<script>alert(1)</script> & |",
    "n" * 240,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_film_of_any_name_is_drawn_without_complaint(tmp_path, recwarn, name):
    progress = np.array([0.0, 0.5, 1.0], np.float32)
    curves = Curves(np.arange(3), progress, np.tile(progress[:, None], 3), np.arange(3), np.full(2, 0.1, np.float32))
    views = np.zeros((3, 1, 32, 32, 3), np.uint8)
    assert (
        write_film(tmp_path / "film.mp4", enumerate(views), curves, f"{name}: success (model ab, itself)")
        .stat()
        .st_size
    )
    assert not [warning for warning in recwarn if "glyph" in str(warning.message).lower()]


def test_text_on_a_plot_is_one_line_that_fits():
    assert plot_text("Φ* τ–✓ 推\n") == "Φ* τ–✓ □\\n"
    assert plot_text("pay_$5_and_$_change") == "pay_$5_and_$_change"
    assert len(plot_text("n" * 1000)) <= 115


def test_every_plot_takes_dollars_as_they_are(tmp_path):
    axes = new_figure(3, 2).subplots()
    axes.plot([0, 1], label="pay_$5_and_$_change")
    axes.set(title="a^b_{c$ and $", xlabel="$x")
    axes.set_yticks([0, 1], [r"\frac$1$", "$"])
    axes.legend()
    axes.figure.savefig(tmp_path / "plot.png")
