"The package as a whole: what it imports, which way its arrows point, and that its versions agree."
import ast
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

TOP = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=["="])
config.read(TOP/"settings.ini", encoding="utf-8")
CFG = config["DEFAULT"]
RUNTIME, DEV, CLUSTER = ([Requirement(r) for r in CFG[key].split()] for key in ("requirements", "dev_requirements", "cluster_requirements"))

IMPORT_NAME = {"scikit-learn": "sklearn", "arviz-stats": "arviz_stats"}
MEASURES = {"rank_patterns", "spectra", "distances", "balance", "mode_coupling"}
MODULES = {p.stem: p.read_text(encoding="utf-8") for p in (TOP/"dln_nb").glob("*.py") if not p.name.startswith("_")}
# the notebook that a module is exported from, in reading order by name (test_in_step.py refuses a module without a notebook)
NOTEBOOK = {name: found[1] for name, text in MODULES.items()
            if (found := re.search(r"File to edit: \.\./nbs/(\d+_\w+)\.ipynb", text))}


def imports(text):
    "Top-level names of what a module imports, wherever in it: `(others, own modules)`."
    others, own = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:  # from .network import …, from . import network
            names = [f"dln_nb.{node.module}"] if node.module else [f"dln_nb.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # nbdev leaves `from dln_nb import network` as it is, or makes it relative
            names = [f"dln_nb.{alias.name}" for alias in node.names] if node.module == "dln_nb" else [node.module]
        else: continue
        for name in names:
            head, *rest = name.split(".")
            if head == "dln_nb": own.update(rest[:1])
            else: others.add(head)
    return others, own


def test_there_are_modules():
    assert "network" in MODULES


def test_imports_are_declared():
    "So that the installed package runs, without nbdev and its companions."
    declared = {IMPORT_NAME.get(r.name, r.name) for r in RUNTIME + CLUSTER} | {"dln_nb"} | sys.stdlib_module_names
    undeclared = {name: extra for name, text in MODULES.items() if (extra := imports(text)[0] - declared)}
    assert not undeclared, f"imported, but not among the requirements of settings.ini: {undeclared}"


def test_arrows_point_down():
    "A module imports modules of earlier notebooks only, a measure network, task and the singular values of their products only."
    up = [f"{name} -> {other}" for name, text in MODULES.items() for other in imports(text)[1]
          if {name, other} <= NOTEBOOK.keys() and NOTEBOOK[other] >= NOTEBOOK[name]]
    assert not up, f"imports that point up: {up}"
    sideways = [f"{name} -> {other}" for name in MEASURES & MODULES.keys()
                for other in imports(MODULES[name])[1] - {"network", "task", "singular_values"}]
    assert not sideways, f"a measure knows weights and the task only: {sideways}"


def test_constraints_fit_the_requirements():
    lines = [line for line in (TOP/"constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), "constraints.txt: only name==version, no paths, no local labels"
    pinned = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    misfits = [str(r) for r in RUNTIME + DEV if not r.specifier.contains(pinned.get(r.name.lower(), "0"))]
    assert not misfits, f"constraints.txt does not hold {misfits}; call make constraints"


def test_one_version():
    cited = re.search(r"^version: (\S+)$", (TOP/"CITATION.cff").read_text(), re.M)[1]
    written = re.search(r'^__version__ = "(.*)"$', (TOP/"dln_nb"/"__init__.py").read_text(), re.M)[1]
    assert CFG["version"] == cited == written
