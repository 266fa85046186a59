"The package as a whole: its parts and arrows, its face and public names, its versions."
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIB = TOP/"dln_nb"
config = ConfigParser(delimiters=["="])
config.read(TOP/"settings.ini", encoding="utf-8")
CFG = config["DEFAULT"]
RUNTIME, DEV, CLUSTER = ([Requirement(r) for r in CFG[key].split()]
                         for key in ("requirements", "dev_requirements", "cluster_requirements"))

IMPORT_NAME = {"scikit-learn": "sklearn", "arviz-stats": "arviz_stats", "Jinja2": "jinja2"}
PARTS = ("foundations", "theory", "measures", "training", "saddles", "experiments", "figures",
         "explorer", "studies", "")  # in the order of the book; "" is the top level
FILES = sorted(p for p in LIB.rglob("*.py") if not p.name.startswith("_"))
MODULES = {".".join(p.relative_to(LIB).with_suffix("").parts): p.read_text(encoding="utf-8")
           for p in FILES}
TREES = {name: ast.parse(text) for name, text in MODULES.items()}


def notebook(name):
    "The notebook that a module was exported from, as a path inside nbs/ without its ending."
    return re.search(r"File to edit: (?:\.\./)+nbs/(\S+)\.ipynb", MODULES[name])[1]


def place(name):
    "Where a module stands in the book: its part, and the number of its chapter in it."
    part, number = re.fullmatch(r"(?:(\w+)/)?(\d+)_\w+", notebook(name)).groups()
    return PARTS.index(part or ""), int(number)


PLACE = {name: place(name) for name in MODULES}


def public(tree):
    "The names in a module's `__all__`."
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign)
             and [getattr(t, "id", None) for t in node.targets] == ["__all__"]]
    return ast.literal_eval(lists[0]) if lists else []


def test_there_are_modules():
    assert "foundations.network" in MODULES and len(MODULES) > 40
    assert {name.rpartition(".")[0] for name in MODULES} == set(PARTS)


# Imports

def imports(name):
    "What a module imports, wherever in it: `(top-level names of others, own modules)`."
    others, own, package = set(), set(), ["dln_nb", *name.split(".")[:-1]]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import): found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found = [(base, alias.name) for alias in node.names]
        else: continue
        for base, member in found:
            if base.split(".")[0] != "dln_nb":
                others.add(base.split(".")[0])
                continue
            plain = base.removeprefix("dln_nb").lstrip(".")
            deeper = ".".join(filter(None, [plain, member]))
            # `import dln_nb as dln` in a module would hide what it uses
            if deeper == "__version__": continue
            own.add(deeper if deeper in MODULES else plain or "the face")
    return others, own


def test_imports_are_declared():
    "So that the installed package runs, without nbdev and its companions."
    declared = {IMPORT_NAME.get(r.name, r.name) for r in RUNTIME + CLUSTER}
    declared |= {"dln_nb"} | sys.stdlib_module_names
    undeclared = {name: extra for name in MODULES if (extra := imports(name)[0] - declared)}
    assert not undeclared, f"imported, but not among the requirements of settings.ini: {undeclared}"


def test_requirements_are_used():
    "What is installed for a run is imported somewhere, or by something that is."
    behind = {"ipywidgets", "h5netcdf", "llvmlite", "lazy-loader"}  # tqdm, xarray, numba, the face
    used = set().union(*(imports(name)[0] for name in MODULES))
    idle = [r.name for r in RUNTIME if IMPORT_NAME.get(r.name, r.name) not in used
            and r.name.replace("_", "-") not in behind]
    assert not idle, f"required by settings.ini, imported nowhere: {idle}"


def test_numbers_repeat_nowhere():
    "In no part have two notebooks the same number, whether they export a module or not."
    seen = defaultdict(list)
    for path in (TOP/"nbs").rglob("[0-9]*_*.ipynb"):
        if not any(part.startswith((".", "_")) for part in path.relative_to(TOP).parts):
            seen[path.parent.name, int(path.name.split("_")[0])].append(path.name)
    assert len(seen) > 50
    assert not (twice := [names for names in seen.values() if len(names) > 1]), twice


def test_notebook_path_is_module_path():
    plain = lambda path: re.sub(r"(^|/)\d+_", r"\1", path).replace("/", ".")
    wrong = {name: notebook(name) for name in MODULES if plain(notebook(name)) != name}
    assert not wrong, wrong


def test_arrows_point_down():
    "A part imports only parts before it, and a chapter only chapters before it in its part."
    found = [(name, other) for name in MODULES for other in imports(name)[1]]
    assert len(found) > 100 and ("measures.spectra", "measures.singular_values") in found
    up = [f"{name} -> {other}" for name, other in found
          if other not in PLACE or PLACE[other] >= PLACE[name]]
    assert not up, f"imports that point up: {up}"


def test_measures_know_nothing_of_training():
    behind = {other.split(".")[0] for name in MODULES if name.startswith("measures.")
              for other in imports(name)[1]}
    assert "foundations" in behind and behind <= {"foundations", "measures"}, behind


# Public names

def test_few_public_names():
    names = [name for tree in TREES.values() for name in public(tree)]
    assert 100 < len(names) <= 300, f"{len(names)} names are public: helpers get an underscore"


def test_no_name_is_public_twice():
    homes = defaultdict(list)
    for module, tree in TREES.items():
        for name in public(tree): homes[name].append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert not twice, f"public in more than one module: {twice}"


def undescribed(text, tree):
    "The public fields and parameters of a module without a comment of their own beside them."
    comments = {token.start[0] for token in tokenize.generate_tokens(io.StringIO(text).readline)
                if token.type == tokenize.COMMENT}

    def parameters(function, owner=""):
        a = function.args
        rest = [arg for arg in (a.vararg, a.kwarg) if arg]
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *rest]
        static = {"staticmethod"} & {getattr(d, "id", "") for d in function.decorator_list}
        if owner and not static: given = given[1:]  # self, cls
        lines = [arg.lineno for arg in given]
        defaults = dict(zip([*a.posonlyargs, *a.args][::-1], a.defaults[::-1]))
        defaults |= {arg: default for arg, default in zip(a.kwonlyargs, a.kw_defaults) if default}
        for arg in given:
            end = max(arg.end_lineno, defaults[arg].end_lineno if arg in defaults else 0)
            if end not in comments or lines.count(arg.lineno) > 1:
                yield f"{owner}{function.name}({arg.arg})"

    for node in tree.body:
        if getattr(node, "name", None) not in public(tree): continue
        if isinstance(node, ast.FunctionDef): yield from parameters(node)
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.AnnAssign) and not member.target.id.startswith("_"):
                    if member.end_lineno not in comments: yield f"{node.name}.{member.target.id}"
                elif isinstance(member, ast.FunctionDef):
                    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    inherited = bases & METHODS.get(member.name, set()) # described there
                    public_one = member.name == "__init__" or not member.name.startswith("_")
                    if public_one and not inherited:
                        yield from parameters(member, f"{node.name}.")


METHODS = {}  # which classes of the package have a method of this name
for _tree in TREES.values():
    for _node in _tree.body:
        for _member in _node.body if isinstance(_node, ast.ClassDef) else ():
            if isinstance(_member, ast.FunctionDef):
                METHODS.setdefault(_member.name, set()).add(_node.name)


def test_what_is_not_described_is_found():
    text = '''
__all__ = ["f", "A"]
def f(
    a, # shape (n,)
    b:int,
    *,
    c=(1,
       2), # two
    d, e, # one comment for two
    **options,
): return a # a comment that describes no parameter
def _g(x): return x
class A:
    x:int # a size
    y:int
    _z:int
    def m(self, n): return n
    def _k(self, n): return n
'''
    found = list(undescribed(text, ast.parse(text)))
    assert found == ["f(b)", "f(d)", "f(e)", "f(options)", "A.y", "A.m(n)"]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_field_and_parameter_is_described(name):
    "A comment beside it (docments), which becomes its description on the page."
    assert not (bare := list(undescribed(MODULES[name], TREES[name]))), ", ".join(bare)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_definition_has_a_docstring(name):
    known = set(public(TREES[name]))
    bare = [node.name for node in TREES[name].body if getattr(node, "name", None) in known
            and not ast.get_docstring(node)]
    assert not bare, ", ".join(bare)


# The face

def face():
    "`{name: module that it comes from}`, as `__init__.pyi` says."
    tree = ast.parse((LIB/"__init__.pyi").read_text(encoding="utf-8"))
    return {alias.asname: node.module for node in tree.body if isinstance(node, ast.ImportFrom)
            for alias in node.names}


def test_the_face_is_what_its_stub_says():
    "Every name of the stub is there, public where it lives; `dir` lists them and nothing else."
    import dln_nb
    names = face()
    assert 25 <= len(names) and {"Experiment", "run", "sweep", "Task", "train"} <= set(names)
    assert set(dir(dln_nb)) - {"__version__"} == set(names), "dir(dln_nb) and __init__.pyi differ"
    for name, module in names.items():
        assert getattr(dln_nb, name) is getattr(sys.modules[f"dln_nb.{module}"], name), name
        assert name in public(TREES[module]), f"{name} is no public name of dln_nb.{module}"
    with pytest.raises(AttributeError): _ = dln_nb.no_such_name


HEAVY = ["torch", "numpy", "scipy", "xarray", "pandas", "matplotlib", "numba", "h5py", "joblib"]


@pytest.mark.parametrize("script", ["import dln_nb; dir(dln_nb)",
                                    "from dln_nb.cli import main; main(['--help'])"])
def test_little_is_imported_before_it_is_used(script):
    "What takes time to import is imported by the first use of a name; no clock is asked."
    script += f"\nimport sys; assert not (there := set({HEAVY}) & set(sys.modules)), there"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Tools

def test_ruff():
    "Imports, names, lines of at most 100 characters; in the notebooks too."
    command = [BIN/"ruff", "check", "--output-format=concise", "--no-cache"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.slow
def test_mypy():
    "Half a minute where it has no cache: `make lint` and pre-commit call it, too."
    done = subprocess.run([BIN/"mypy"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


# Versions

def test_constraints_fit_the_requirements():
    lines = [line for line in (TOP/"constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), \
        "constraints.txt: only name==version, no paths, no local labels"
    plain = lambda name: name.lower().replace("_", "-")
    pinned = {plain(name): version for name, version in (line.split("==") for line in lines)}
    misfits = [str(r) for r in RUNTIME + DEV
               if not r.specifier.contains(pinned.get(plain(r.name), "0"))]
    assert not misfits, f"constraints.txt does not hold {misfits}; call make constraints"


def test_one_version():
    cited = re.search(r"^version: (\S+)$", (TOP/"CITATION.cff").read_text(), re.M)[1]
    written = re.search(r'^__version__ = "(.*)"$', (LIB/"__init__.py").read_text(), re.M)[1]
    changes = re.search(r"^## \[(\d\S*)\]", (TOP/"CHANGELOG.md").read_text(), re.M)[1]
    assert CFG["version"] == cited == written == changes
