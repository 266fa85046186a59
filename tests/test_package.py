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
PARTS = ("foundations", "theory", "measures", "training", "saddles", "experiments", "figures", "explorer", "studies", "")
FILES = sorted(p for p in (TOP/"dln_nb").rglob("*.py") if not p.name.startswith("_"))
MODULES = {".".join(p.relative_to(TOP/"dln_nb").with_suffix("").parts): p.read_text(encoding="utf-8") for p in FILES}


def place(text):
    "Where a module stands in the book: its part, and the number of its chapter in it."
    found = re.search(r"File to edit: (?:\.\./)+nbs/(?:(\w+)/)?(\d+)_\w+\.ipynb", text)
    return PARTS.index(found[1] or ""), int(found[2])


PLACE = {name: place(text) for name, text in MODULES.items()}


def imports(name, text):
    "What a module imports, wherever in it: `(top-level names of others, own modules)`."
    others, own, package = set(), set(), ["dln_nb", *name.split(".")[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import): found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[:len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            found = [(base, alias.name) for alias in node.names]
        else: continue
        for base, member in found:
            if base.split(".")[0] != "dln_nb": others.add(base.split(".")[0]); continue
            plain = base.removeprefix("dln_nb").lstrip(".")
            deeper = ".".join(filter(None, [plain, member]))
            own.add(deeper if deeper in MODULES else plain)
    return others, own - {""}


def test_there_are_modules():
    assert "foundations.network" in MODULES and len(MODULES) > 40 and {name.split(".")[0] for name in MODULES if "." in name} == set(PARTS) - {""}


def test_imports_are_declared():
    "So that the installed package runs, without nbdev and its companions."
    declared = {IMPORT_NAME.get(r.name, r.name) for r in RUNTIME + CLUSTER} | {"dln_nb"} | sys.stdlib_module_names
    undeclared = {name: extra for name, text in MODULES.items() if (extra := imports(name, text)[0] - declared)}
    assert not undeclared, f"imported, but not among the requirements of settings.ini: {undeclared}"


def test_numbers_repeat_nowhere():
    assert len(set(PLACE.values())) == len(PLACE), "two chapters of a part have the same number"


def test_notebook_path_is_module_path():
    wrong = [name for name, text in MODULES.items()
             if re.sub(r"(^|/)\d+_", r"\1", re.search(r"File to edit: (?:\.\./)+nbs/(\S+)\.ipynb", text)[1]).replace("/", ".") != name]
    assert not wrong, wrong


def test_arrows_point_down():
    "A part imports only parts before it, and a chapter only chapters before it in its part."
    found = [(name, other) for name, text in MODULES.items() for other in imports(name, text)[1]]
    assert len(found) > 100 and ("measures.spectra", "measures.singular_values") in found
    up = [f"{name} -> {other}" for name, other in found if other not in PLACE or PLACE[other] >= PLACE[name]]
    assert not up, f"imports that point up: {up}"


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
