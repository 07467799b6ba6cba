"""The Python of the page about checks runs, and says what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "checks.md"


def test_python_of_the_page_runs(capsys):
    (body,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    namespace: dict = {"__name__": "page"}
    exec(compile(body, "docs/checks.md", "exec"), namespace)  # noqa: S102  # our own page
    p_values = namespace["found"].found.p_value
    assert p_values[0] > 0.999, "fewer x than the model without race has it"
    assert p_values[2] < 0.001
    assert "num_bad=0" in capsys.readouterr().out
