"""Pages of the site that live elsewhere: README.md is the first page; CHANGELOG.md and the tutorial are pages, too."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PREVIOUS = "Run the notebook yourself: [tutorial.ipynb](tutorial.ipynb).\n\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    made = {
        "index.md": inside((ROOT / "README.md").read_text()),
        "changelog.md": inside((ROOT / "CHANGELOG.md").read_text()),
        "tutorial.md": notebook_page(ROOT / "docs" / "tutorial.ipynb"),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx's roles of the docstrings (``:class:`` before a name) are no words."""
    return re.sub(r":(?:class|meth|func|data|mod|attr):(?=<)", "", html)


def inside(text: str) -> str:
    """The links of a page beside ``docs/``, as the site has them."""
    return (
        text.replace("](docs/", "](")
        .replace("](CHANGELOG.md", "](changelog.md")
        .replace("](tutorial.ipynb", "](tutorial.md")
    )


def notebook_page(path: Path) -> str:
    """A notebook as a page: text as it is, code as code."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n{PREVIOUS}{re.sub(r'^# ', '## ', rest)}"
