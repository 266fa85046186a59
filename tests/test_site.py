"The site up to Quarto: nbdev processes every notebook, and Quarto would find all that its configuration names."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parent.parent

# What nbdev_docs does before it calls Quarto; nbdev_proc_nbs would do the same, but installs a missing Quarto.
PROCESS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
if __name__ == "__main__":
    refresh_quarto_yml()
    proc_nbs(n_workers=2)
"""


def test_site_is_ready_to_render(tmp_path):
    top = tmp_path/"checkout"
    top.mkdir()
    for name in ("settings.ini", "_quarto.yml"): shutil.copy(TOP/name, top)
    for name in ("nbs", "dln_nb"):
        shutil.copytree(TOP/name, top/name, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (tmp_path/"process.py").write_text(PROCESS)
    env = {**os.environ, "PYTHONPATH": str(top)}  # nbdev imports the package to document it
    done = subprocess.run([sys.executable, tmp_path/"process.py"], cwd=top, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = top/"_proc"

    notebooks = {p.relative_to(top/"nbs").as_posix() for p in (top/"nbs").rglob("*.ipynb")}
    processed = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in site.rglob("*.ipynb")}
    assert notebooks and processed.keys() == notebooks
    # chapters get addresses without their number: network.html for 00_network.ipynb
    for name, text in processed.items():
        assert f"output-file: {re.sub(r'^[0-9]+[a-z]*_', '', Path(name).stem)}.html" in text, name

    assert not (site/"_quarto.yml").is_symlink(), "nbdev copies the file, not the link"
    config = yaml.safe_load((site/"_quarto.yml").read_text(encoding="utf-8"))
    named = [*config["metadata-files"], config["format"]["html"]["css"]]
    assert all((site/name).exists() for name in named), named
    assert yaml.safe_load((site/"nbdev.yml").read_text())["project"]["output-dir"] == "_docs"
