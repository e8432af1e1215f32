from __future__ import annotations

import pytest

from experiments.benchmarks import scaling


@pytest.mark.parametrize(
    ("option", "value"), [("--runners", "1"), ("--slow-factor", "0.5"), ("--seconds", "nan"), ("--step-s", "0.0")]
)
def test_bad_arguments_are_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main([option, value])
    assert f"{option} = {value}: give" in capsys.readouterr().err
