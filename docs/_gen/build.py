"""Run by mkdocs-gen-files while the site is built: write the generated pages into it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import mkdocs_gen_files  # noqa: E402  (the path comes first)

from docs._gen.pages import all_pages  # noqa: E402

for path, text in all_pages().items():
    with mkdocs_gen_files.open(path, "w") as out:
        out.write(text)
