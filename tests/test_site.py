"The site up to Quarto, its preview, and the works it cites."
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import ChainMap
from pathlib import Path

import pytest
import yaml
from test_package import MODULES, TOP

sys.path.append(str(TOP/"tools"))
import citations  # noqa: E402


def notebook(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


# The site as Quarto gets it, kept for the test; then the preview.
BUILD = """
import shutil, sys
sys.path.append("tools")
from pathlib import Path
import preview
if __name__ == "__main__":
    site = preview.process()
    shutil.copytree(site, "kept")
    preview.render(site, Path("_docs"))
"""


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    "A checkout with the processed notebooks in kept/ and the preview in _docs/."
    top = tmp_path_factory.mktemp("checkout")
    for name in ("settings.ini", "_quarto.yml"): shutil.copy(TOP/name, top)
    unread = shutil.ignore_patterns(".*", "__pycache__")
    for name in ("nbs", "dln_nb", "tools"):
        shutil.copytree(TOP/name, top/name, symlinks=True, ignore=unread)
    (top/"build.py").write_text(BUILD)
    env = os.environ | {"PYTHONPATH": str(top)}  # nbdev imports the package to document it
    command = [sys.executable, "build.py"]
    done = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return top


def test_site_is_ready_to_render(top):
    site = top/"kept"
    read = lambda folder: {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8")
                           for p in folder.rglob("*.ipynb")}
    processed = read(site)
    assert processed and processed.keys() == read(top/"nbs").keys()
    # chapters get addresses without their number: network.html for 01_network.ipynb
    for name, text in processed.items():
        plain = re.sub(r"^[0-9]+[a-z]*_", "", Path(name).stem)
        assert f"output-file: {plain}.html" in text, name

    front = "".join(json.loads(processed[citations.BIBLIOGRAPHY])["cells"][0]["source"])
    assert yaml.safe_load(front.strip().strip("-"))["nocite"] == "@*", "front matter of nbdev"
    assert citations.pages(site) == citations.pages(top/"nbs"), "no citation is lost or changed"

    assert not (site/"_quarto.yml").is_symlink(), "nbdev copies the file, not the link"
    config = yaml.safe_load((site/"_quarto.yml").read_text(encoding="utf-8"))
    named = [*config["metadata-files"], config["format"]["html"]["css"], config["bibliography"]]
    assert all((site/name).exists() for name in named), named
    assert yaml.safe_load((site/"nbdev.yml").read_text())["project"]["output-dir"] == "_docs"


def test_preview_has_every_page(top):
    "At its address on the site, with its citations in words."
    notebooks = [p.relative_to(top/"nbs") for p in (top/"nbs").rglob("*.ipynb")]
    expected = {p.with_name(re.sub(r"^\d+_", "", p.stem) + ".html").as_posix() for p in notebooks}
    pages = {p.relative_to(top/"_docs").as_posix(): p.read_text(encoding="utf-8")
             for p in (top/"_docs").rglob("*.html")}
    assert len(expected) == len(notebooks) and pages.keys() == expected
    for name, page in pages.items():
        text = re.sub(r"(?s)<(pre|code|script)\b.*?</\1>", "", page)
        assert not re.search(r"\[@\w|(?<![\w/])@[a-z]+\d{4}\b", text), name


def test_citations_and_references_agree():
    works, pages = citations.entries(TOP/"nbs"), citations.pages(TOP/"nbs")
    unknown = {name: extra for name, keys in pages.items() if (extra := set(keys) - works.keys())}
    assert not unknown, f"cited, but not in nbs/references.bib: {unknown}"
    idle = works.keys() - {key for keys in pages.values() for key in keys}
    assert works and not idle, f"in nbs/references.bib, but cited nowhere: {sorted(idle)}"
    poor = [key for key, work in works.items() if not {"author", "title", "year"} <= work.keys()
            or not {"journal", "booktitle", "publisher", "eprint", "url", "doi"} & work.keys()]
    assert not poor, f"without author, title, year or place of publication: {poor}"


def test_no_citation_in_a_heading_or_title_cell():
    "Headings are links in the table of contents; nbdev makes front matter of the title cell."
    for path in (TOP/"nbs").rglob("*.ipynb"):
        cells = ["".join(c["source"]) for c in notebook(path) if c["cell_type"] == "markdown"]
        heads = [line for cell in cells for line in cell.splitlines() if line.startswith("#")]
        assert not any(citations.cited(text) for text in (*heads, cells[0])), path.name


def test_page_of_all_works_is_in_step():
    cells = notebook(TOP/"nbs"/citations.BIBLIOGRAPHY)
    stored = ["".join(out["data"]["text/markdown"]) for c in cells for out in c.get("outputs", ())]
    assert stored == [citations.table(TOP/"nbs")], f"run nbs/{citations.BIBLIOGRAPHY} again"


def test_bibliography_is_read_strictly():
    good = "@book{a1,\n  title = {The {T}},\n  year = {2000}\n}\n"
    entry = {"type": "book", "title": "The {T}", "year": "2000"}
    assert citations.read_entries(good) == {"a1": entry}
    braces, comma = good.replace("}},", "},"), good.replace(",\n  year", "\n  year")
    for bad in (good + good, braces, comma, "text\n" + good):
        with pytest.raises(ValueError): citations.read_entries(bad)


def test_citations_in_words():
    entry = "author = {A, X. and De B, Y.},\n  year = {2000},\n  doi = {10.1/x}"
    works, to = citations.read_entries(f"@misc{{a1,\n  {entry}\n}}\n"), "(https://doi.org/10.1/x)"
    text = "see [after @a1; @a1] and @a1, not `@a1`, $@a1$ or [x](y@a1)"
    assert citations.in_words(text, works) == (
        f"see (after [A and De B, 2000]{to}; [A and De B, 2000]{to}) and [A and De B (2000)]{to}, "
        "not `@a1`, $@a1$ or [x](y@a1)")


def test_names_on_the_notation_page_exist():
    page = notebook(TOP/"nbs"/"guide"/"03_notation.ipynb")
    cells = [c for c in page if c["cell_type"] == "markdown"]
    lines = [line.split("|")[1:-1] for c in cells for line in "".join(c["source"]).splitlines()]
    rows = [line for line in lines if len(line) == 5]  # symbol, meaning, shape, in code, page
    named = {name for row in rows for name in re.findall(r"`([A-Za-z_]\w*(?:\.\w+)?)`", row[3])}
    package = ChainMap(*(vars(importlib.import_module(f"dln_nb.{name}")) for name in MODULES))
    fields = lambda owner: {*dir(owner), *getattr(owner, "__dataclass_fields__", ())}
    wrong = [name for name in named - {"widths"} if (owner := name.split(".")[0]) not in package
             or "." in name and name.split(".")[1] not in fields(package[owner])]
    assert len(named) > 80 and not wrong, f"in the tables of 03_notation, not in dln_nb: {wrong}"
