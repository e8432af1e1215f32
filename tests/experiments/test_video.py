import av
import numpy as np

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
