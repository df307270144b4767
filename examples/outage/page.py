"""Runs outage.py cell by cell and prints it as a page, with what each cell has printed below it.

Run as `python page.py > README.md`.
"""

import io
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

WALK = Path(__file__).with_name("outage.py")
NOTE = """
Run it yourself with `pip install resilient-calls` and `python outage.py`, or open
[outage.py](outage.py) in an editor that knows `# %%` cells, and change something. This page is
what `python page.py` makes of it; a test compares the two.
"""


def page() -> str:
    """The page: prose as it is, code and what it printed in fences."""
    module = ModuleType("outage")
    parts: list[str] = []
    for cell in WALK.read_text(encoding="utf-8").split("# %%")[1:]:
        head, _, text = cell.partition("\n")
        text = text.strip("\n")
        if "[markdown]" in head:
            lines = (line.removeprefix("#").removeprefix(" ") for line in text.split("\n"))
            parts.append("\n".join(lines))
            continue
        parts.append(f"```python\n{text}\n```")
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, str(WALK), "exec"), module.__dict__)
        if printed.getvalue():
            parts.append(f"```text\n{printed.getvalue().rstrip()}\n```")
    return "\n\n".join([*parts, NOTE.strip()]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
