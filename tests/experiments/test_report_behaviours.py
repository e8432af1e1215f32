"""The main job's report says how the reward model judges behaviour; results from before do not have to."""

from __future__ import annotations

from dataclasses import asdict, replace

from dopamine_rl.evaluation.behaviours import BehaviourReport, InstructionReport
from dopamine_rl.evaluation.gate import decide
from dopamine_rl.evaluation.gate_config import GateConfig
from experiments.job.report import _gate_section
from tests.dopamine_rl.test_gate import GOOD


def section(**changes: object) -> str:
    figures = replace(GOOD, **changes)  # type: ignore[arg-type]
    result = {"gate": asdict(figures), "gate_passed": True, "gate_forced": False}
    return _gate_section(result, decide(figures, GateConfig()))


def test_each_kind_has_a_row_and_a_wrong_instruction_a_sentence() -> None:
    beside = BehaviourReport(7, 7, 0.117, 0.06, None, None, 0.406, 0.04, 0.25)
    told = InstructionReport(5, 0.98, 0.97, 0.01, 1.0)
    text = section(behaviours={"beside": asdict(beside)}, instruction=asdict(told))
    assert "| beside | 7 | 7 | 0.117 | 0.060 | – | – | 0.406 | 0.040 | 0.250 |" in text
    assert "gap +0.010" in text
    assert "| behaviours |" not in text
    assert "None of these figures has a bound." in text
    assert decide(replace(GOOD, behaviours={"beside": asdict(beside)}), GateConfig()).passed


def test_a_result_from_before_says_nothing_of_them() -> None:
    figures = asdict(GOOD)
    del figures["behaviours"], figures["instruction"]
    result = {"gate": figures, "gate_passed": True, "gate_forced": False}
    text = _gate_section(result, decide(GOOD, GateConfig()))
    assert text.count("| kind |") == 0
    assert "gate.png" in text
