"""Hostile configs, sources and run directories are refused with a message, or do no harm, within limits.

Every tenth case of each kind here; all of them: `python -m benchmarks.hostile`.
"""

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pytest
import trial
from inputs import Case, Payload, all_cases

SLOW = ("a gz of", "512 MiB", "200,000 values", "2 MB", "400 deep")
SOME = [
    case
    for _, cases in groupby(all_cases(), key=lambda case: case.kind)
    for case in list(cases)[::10]
    if not any(word in case.name for word in SLOW)
]


@pytest.fixture(scope="module")
def base():
    with trial.prepared() as folder:
        yield folder


def test_there_are_more_than_200_cases_of_different_names():
    cases = all_cases()
    assert len(cases) > 200
    assert len({(case.kind, case.name) for case in cases}) == len(cases)


@pytest.mark.parametrize("case", SOME, ids=lambda case: f"{case.kind}: {ascii(case.name)[:60]}")
def test_a_hostile_input_does_no_harm(case: Case, base: Path):
    result = trial.run(case, base)
    assert not result.wrong, (result.wrong, result.code, result.said[-2000:])


def test_the_trial_notices_code_that_is_executed(tmp_path: Path):
    import pickle

    content = pickle.dumps(Payload(tmp_path))
    pickle.loads(content)  # noqa: S301  # our own bytes: what a reader of pickles would do
    case = Case("", "", lambda folder: [])
    assert trial.judge(case, 2, "caucus: refused", tmp_path, None) == "code was executed"


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [(1, "caucus: a fault", "a fault of ours"), (-9, "", "ended by signal 9"), (0, "done", "was not refused (exit code 0)"),
     (2, "root:x:0:0", "what a file holds was told"), (2, "", "no message"), (2, "caucus: no", "")],
)  # fmt: skip
def test_the_trial_judges(code: int, said: str, wrong: str, tmp_path: Path):
    assert trial.judge(Case("", "", lambda folder: []), code, said, tmp_path, None) == wrong
