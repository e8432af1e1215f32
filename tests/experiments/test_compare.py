import pytest

from experiments.settings import ExperimentConfig
from experiments.sweeps.comparison import main, markdown, pooled, steps_to_level


def curve(*successes_of_ten):
    """A point after every ten episodes of fifty environment steps."""
    points, total = [], 0
    for i, successes in enumerate(successes_of_ten, start=1):
        total += successes
        points.append({"environment_steps": 500 * i, "episodes": 10 * i, "successes": total})
    return points


def test_the_level_is_reached_where_twenty_episodes_in_a_row_have_it():
    assert steps_to_level(curve(2, 9, 8, 10)) == 1500
    assert steps_to_level(curve(10, 1, 1)) is None
    assert steps_to_level(curve(10)) is None  # Ten episodes are too few to say so.
    assert steps_to_level([]) is None


def result(arm, seed, outcomes, clone, points):
    return {"arm": arm, "seed": seed, "outcomes": outcomes, "clone": clone, "curve": points}


def test_pooling_pairs_every_episode_with_the_clones():
    clone = [True, False] * 10
    results = [
        result("grm", 0, [True] * 20, clone, curve(2, 10, 10)),
        result("grm", 1, [True] * 10 + [False] * 10, clone, curve(10, 10)),
        result("sparse", 0, clone, clone, curve(0, 0)),
    ]
    grm, sparse = pooled(results, "grm"), pooled(results, "sparse")
    assert grm["success"]["n"] == grm["gain"]["n"] == 40
    assert grm["success"]["mean"] == pytest.approx(0.75)
    assert grm["gain"]["mean"] == pytest.approx(0.25)
    assert grm["seeds"] == [1.0, 0.5]
    assert grm["environment_steps_to_level"] == (1500 + 1000) / 2
    assert sparse["gain"]["mean"] == 0.0
    assert sparse["environment_steps_to_level"] is None
    page = markdown(ExperimentConfig(), {"grm": grm, "sparse": sparse}, seeds=2)
    assert "| grm | 0.75" in page
    assert "not reached" in page


@pytest.mark.parametrize(("flags", "named"), [(["--seeds", "0"], "seeds"), (["--arms", "gmr"], "untrained")])
def test_bad_input_is_met_before_anything_starts(flags, named, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err
