"""docs/haystack.md: the examples run as written, one after the other."""

import re
from pathlib import Path

import haystack_kit  # noqa: F401  # turns telemetry off

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "haystack.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 4
    for number, example in enumerate(EXAMPLES, start=1):
        exec(compile(example, f"example {number}", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("{'cluster_id': ")
    assert out[2].startswith("32 ")  # of 50: who always says "1" is asked the first core checks only
    assert out[3] == "40 4"
