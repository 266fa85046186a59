"""Write README.md from nbs/index.ipynb, as it stands: nothing is executed, no Quarto is needed.

    python tools/make_readme.py           write README.md and README_files/
    python tools/make_readme.py --check   compare with what is there; exit 1 if they differ
"""
import argparse
import posixpath
import re
import shutil
import sys
from pathlib import Path

import nbformat
from citations import VERBATIM, entries, in_words
from nbconvert import MarkdownExporter
from traitlets.config import Config

TOP = Path(__file__).resolve().parent.parent
FILES = "README_files"
PICTURES = ("image/png", "image/svg+xml", "image/jpeg")

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(.*?)\s*$")
# code and formulas stay as they are (VERBATIM); links in the rest are rewritten
LINK = re.compile(r"""(\]\(|(?:src|href)=["'])([^)\s"']+)""")


def directives(source):
    "The `#| …` lines of a cell, without their marker: `hide`, `echo: false`, …"
    found = (DIRECTIVE.match(line) for line in source.splitlines())
    return {re.sub(r"\s*:\s*", ": ", m[1]) for m in found if m}


def without_directives(source):
    return "\n".join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip("\n")


def from_top(target, folder):
    "A link that is relative to the notebook's folder, made relative to the top."
    if re.match(r"[a-z][a-z0-9+.-]*:|[#/]", target, re.IGNORECASE): return target
    return posixpath.normpath(posixpath.join(folder, target))


def markdown(source, folder, works):
    "A markdown cell for the README: no front matter, citations in words, links from the top."
    source = re.sub(r"\A---\s*\n.*?\n---\s*(\n|\Z)", "", source, flags=re.DOTALL)
    if source.startswith("# "):
        # `- key: value` below the title is nbdev's other front matter
        source = re.sub(r"^- [\w-]+: .*\n?", "", source, flags=re.MULTILINE)
    parts = VERBATIM.split(in_words(source, works))
    parts[::2] = [LINK.sub(lambda m: m[1] + from_top(m[2], folder), part) for part in parts[::2]]
    return "".join(parts).strip("\n")


def kept_outputs(outputs, folder, works):
    """Without progress bars, warnings and live widgets; one picture per output, png rather than
    svg; links from the top."""
    for out in outputs:
        data = out.get("data", {})
        if out.get("name") == "stderr" or any("widget-view" in kind for kind in data): continue
        if "image/png" in data: data.pop("image/svg+xml", None)
        if "text/markdown" in data:
            data["text/markdown"] = markdown(data["text/markdown"], folder, works)
        yield out


def readme_cells(nb, folder, works):
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = markdown(cell.source, folder, works)
            if cell.source: yield cell
        elif cell.cell_type == "code":
            marks = directives(cell.source)
            if marks & {"hide", "hide: true", "include: false"}: continue
            if any(m.startswith("default_exp") for m in marks): continue
            # code that is folded on the site is left out here
            bare = marks & {"echo: false", "hide_input", "code-fold: true"}
            cell.source = "" if bare else without_directives(cell.source)
            outputs = [] if "output: false" in marks else cell.outputs
            cell.outputs = list(kept_outputs(outputs, folder, works))
            if not cell.source: # no empty fence
                cell.metadata["transient"] = {"remove_source": True}
            if cell.source or cell.outputs: yield cell


def build(notebook):
    "The README's text and its pictures, `{relative path: bytes}`."
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = list(readme_cells(nb, notebook.parent.name, entries(notebook.parent)))
    # cleaned notebooks lack it; it names the fences
    nb.metadata["language_info"] = {"name": "python"}
    config = Config()
    config.MarkdownExporter.display_data_priority = [
        *PICTURES, "text/html", "text/markdown", "text/latex", "text/plain"]
    pictures = config.ExtractOutputPreprocessor
    pictures.output_filename_template = FILES + "/{unique_key}_{cell_index}_{index}{extension}"
    pictures.extract_output_types = set(PICTURES)
    exporter = MarkdownExporter(config=config)
    text, resources = exporter.from_notebook_node(nb, {"unique_key": notebook.stem})
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    outputs = resources.get("outputs", {})
    return text, {posixpath.join(*Path(name).parts): data for name, data in outputs.items()}


def stale(top, text, pictures):
    "What on disk differs from the notebook: a list of paths."
    readme = top/"README.md"
    wrong = [] if readme.exists() and readme.read_text(encoding="utf-8") == text else ["README.md"]
    there = {path.relative_to(top).as_posix(): path.read_bytes() for path in (top/FILES).glob("*")}
    names = there.keys() | pictures.keys()
    return wrong + sorted(name for name in names if there.get(name) != pictures.get(name))


def write(top, text, pictures):
    shutil.rmtree(top/FILES, ignore_errors=True)
    for name, data in pictures.items():
        (top/name).parent.mkdir(exist_ok=True)
        (top/name).write_bytes(data)
    (top/"README.md").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--check", action="store_true", help="write nothing; exit 1 if README.md is stale")
    add("--top", type=Path, default=TOP, help="the checkout, by default this one")
    args = parser.parse_args()
    notebook = args.top/"nbs"/"index.ipynb"
    if not notebook.exists(): sys.exit(f"{notebook.relative_to(args.top)} is not there")
    text, pictures = build(notebook)
    if not args.check: return write(args.top, text, pictures)
    if wrong := stale(args.top, text, pictures):
        sys.exit(f"not in step with nbs/index.ipynb: {', '.join(wrong)}; call make readme")


if __name__ == "__main__":
    main()
