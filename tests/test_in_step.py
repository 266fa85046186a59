"Notebooks, the package exported from them, README and sidebar say the same."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NBS = TOP/"nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))
# A notebook's name inside nbs/. Without notebooks the tests below would pass for nothing.
NAMES = [p.relative_to(NBS).as_posix() for p in NOTEBOOKS] or ["no notebook"]
# Absolute paths tell of the machine that ran the notebook.
PATHS = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work)/|site-packages")

each_notebook = pytest.mark.parametrize("name", NAMES)


def raw(name): return json.loads((NBS/name).read_text(encoding="utf-8"))
def source(cell): return "".join(cell["source"])


def sh(command, *args, cwd):
    done = subprocess.run([BIN/command, *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def copy(tmp_path):
    "A copy of the checkout to export and clean in; of the package what nbdev does not write."
    shutil.copy(TOP/"settings.ini", tmp_path)
    shutil.copytree(NBS, tmp_path/"nbs", ignore=shutil.ignore_patterns(".*", "_*"))
    (tmp_path/"dln_nb").mkdir()
    shutil.copy(TOP/"dln_nb"/"__init__.py", tmp_path/"dln_nb")
    return tmp_path


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebook found in nbs/"
    assert (NBS/"index.ipynb") in NOTEBOOKS


def test_package_is_what_the_notebooks_export(copy):
    sh("nbdev_export", cwd=copy)
    read = lambda top: {p.relative_to(top).as_posix(): p.read_text() for p in top.rglob("*.py")}
    exported, committed = read(copy/"dln_nb"), read(TOP/"dln_nb")
    assert len(exported) > 2, "nothing was exported beyond __init__.py and _modidx.py"
    wrong = sorted(name for name in exported.keys() | committed.keys()
                   if exported.get(name) != committed.get(name))
    assert not wrong, f"not what the notebooks export: {wrong}; edit them, then call make export"


def test_readme_is_what_the_index_says():
    command = [sys.executable, TOP/"tools"/"make_readme.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_notebooks_are_clean(copy):
    sh("nbdev_clean", cwd=copy)
    dirty = [p.name for p in NOTEBOOKS
             if (copy/"nbs"/p.relative_to(NBS)).read_bytes() != p.read_bytes()]
    assert not dirty, f"not clean: {', '.join(dirty)}; call make clean-nbs"


@each_notebook
def test_sources_are_lists_of_lines(name):
    "nbformat allows one string, but diffs by line and the site's renderer want a list."
    strings = [source(cell)[:40] for cell in raw(name)["cells"]
               if not isinstance(cell["source"], list)]
    assert not strings, f"sources stored as one string, call make clean-nbs: {strings}"


@each_notebook
def test_title_cell_holds_title_and_subtitle_only(name):
    "nbdev makes front matter of the first cell with a title and drops the rest of it."
    titles = [source(c) for c in raw(name)["cells"]
              if c["cell_type"] == "markdown" and re.search(r"^#\s", source(c), re.M)]
    title = titles[0] if titles else ""
    lines = [line for line in title.splitlines() if line.strip()]
    assert lines and lines[0].startswith("# "), "no H1 at the head of the notebook"
    assert [line[:2] for line in lines[1:2]] == ["> "], "no one-line subtitle below the title"
    rest = [line for line in lines[2:] if not re.match(r"- [\w-]+: ", line)]
    assert not rest, f"the site would lose these lines, give them a cell of their own: {rest}"


@each_notebook
def test_outputs_are_stored_and_shareable(name):
    cells = [c for c in raw(name)["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in cells), "no stored outputs: run the notebook, then save it"
    for cell in cells:
        for out in cell["outputs"]:
            # Errors are shown by a cell that catches them and prints the message.
            failed = out["output_type"] == "error" and "expect" not in source(cell)
            assert not failed, f"a stored error: {out.get('ename')}: {out.get('evalue')}"
            data = out.get("data", {}).items()
            texts = [out.get("text", ""), *(text for kind, text in data
                                            if kind.startswith("text/") or kind == "image/svg+xml")]
            for text in map("".join, texts):
                text = re.sub(r"base64,[\w+/=\s]+", "", text)
                found = PATHS.search(text) or re.search(re.escape(str(TOP)), text)
                where = found and text[max(0, found.start() - 40):found.end() + 40]
                assert not found, f"a path of the machine in an output: …{where}…"


def test_site_configuration_is_one_file():
    link = NBS/"_quarto.yml"
    assert link.is_symlink() and link.readlink() == Path("../_quarto.yml")
    assert link.exists()


def test_sidebar_lists_every_notebook():
    config = yaml.safe_load((TOP/"_quarto.yml").read_text(encoding="utf-8"))
    sections = config["website"]["sidebar"]["contents"]
    listed = [item for section in sections for item in section["contents"]]
    # an entry may be a glob, such as studies/*.ipynb
    found = sorted(p.relative_to(NBS).as_posix() for item in listed for p in NBS.glob(item))
    assert found == sorted(NAMES), "the sidebar of _quarto.yml and nbs/ differ"
    empty = [item for item in listed if "*" not in item and not (NBS/item).exists()]
    assert not empty, f"in the sidebar, not in nbs/: {empty}"
