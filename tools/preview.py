"""A preview of the site from package registries alone: nbdev's pages, rendered by smalldocs.

    python tools/preview.py    # writes _docs/; `make docs` calls it where there is no Quarto

smalldocs reads Quarto's configuration. What it does not read is done here: the address of a page
without the number of its chapter, and citations.
"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import citations
import yaml
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

NUMBERED = re.compile(r"\b\d+[a-z]*_(\w+\.ipynb)\b")


def plain(text): return NUMBERED.sub(r"\1", text)


def process():
    "What nbdev_docs does before it calls Quarto: every notebook as the source of its page."
    refresh_quarto_yml()
    return Path(proc_nbs(n_workers=2, force=True))


def rewrite(notebook, works):
    "Addresses without numbers, citations in words; the notebook gets the name of its page."
    nb = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = [plain(citations.in_words("".join(cell["source"]), works))]
        for out in cell.get("outputs", ()):
            if text := out.get("data", {}).get("text/markdown"):
                out["data"]["text/markdown"] = [plain("".join(text))]
    notebook.unlink()
    notebook.with_name(plain(notebook.name)).write_text(json.dumps(nb), encoding="utf-8")


def expand(section, site):
    "A section of the sidebar with each glob as the list of its pages, in order of their numbers."
    pages = [page for item in section["contents"] for page in sorted(site.glob(item))]
    section["contents"] = [plain(page.relative_to(site).as_posix()) for page in pages]


def render(
    site, # what `process` has made; changed in place
    out,  # folder of the pages, made anew
):
    config = yaml.safe_load((site/"_quarto.yml").read_text(encoding="utf-8"))
    for section in config["website"]["sidebar"]["contents"]: expand(section, site)
    (site/"_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    works = citations.entries(site)
    for notebook in sorted(site.rglob("*.ipynb")): rewrite(notebook, works)
    command = [Path(sys.executable).parent/"smalldocs", "render", "--quiet", site]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(site/"_docs", out)


if __name__ == "__main__": render(process(), Path("_docs"))
