"The package alone: built, installed into an environment of its own, used far from the repository."
import ast
import builtins
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from itertools import takewhile
from pathlib import Path

import pytest
from test_package import HEAVY, LIB, TOP

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command, cwd):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from a copy: what an earlier build has left beside the sources would get into it."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
    for name in files: shutil.copy(TOP/name, source)
    shutil.copytree(LIB, source/"dln_nb", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-w", out)
    run(*PIP, "wheel", *options, source, cwd=out)
    built, = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory):
    "An environment with the wheel, and with what the present one has installed but this package."
    home = tmp_path_factory.mktemp("alone")
    venv.create(home/"env", symlinks=True)
    python = home/"env"/"bin"/"python"
    there = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    libraries = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    # a folder named in a .pth is searched, but its own .pth files (editable installs) are not read
    (Path(there.strip())/"libraries.pth").write_text("\n".join(libraries))
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    (home/"elsewhere").mkdir()
    return home


def python(home, script):
    return run(home/"env"/"bin"/"python", "-c", script, cwd=home/"elsewhere")


def test_wheel_holds_the_whole_package(wheel):
    "Every module of every part, types, templates; nothing else."
    with zipfile.ZipFile(wheel) as archive: names = set(archive.namelist())
    packed = {n.removeprefix("dln_nb/") for n in names if n.startswith("dln_nb/")}
    ours = {p.relative_to(LIB).as_posix() for p in LIB.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts}
    assert packed == ours and {"py.typed", "__init__.pyi", "foundations/network.py"} <= packed
    others = {n.split("/")[0] for n in names} - {"dln_nb"}
    assert len(others) == 1 and others.pop().endswith(".dist-info")


def test_import_and_help(home):
    "It is the installed package that is imported, and little else before it is used."
    script = f"import dln_nb, sys; assert not set({HEAVY}) & set(sys.modules); "
    script += "print(dln_nb.__file__)"
    assert Path(python(home, script).strip()).is_relative_to(home)
    said = run(home/"env"/"bin"/"dln_nb", "--help", cwd=home/"elsewhere")
    assert said.startswith("usage: dln_nb") and "golden-path" in said


def blocks(text):
    "The Python blocks of a text that need only names from the blocks before them."
    defined = set(dir(builtins))
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        tree = ast.parse(block)
        names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
        bound = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        bound |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
        bound |= {(alias.asname or alias.name).split(".")[0] for node in ast.walk(tree)
                  if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
        if {n.id for n in names} - bound <= defined:
            defined |= bound
            yield block


def test_blocks_without_hidden_names_are_found():
    text = "".join(f"```{language}\n{code}\n```\n" for language, code in [
        ("python", "x = 1"), ("python", "y = z"), ("sh", "ls"), ("python", "print(x)")])
    assert list(blocks(text)) == ["x = 1\n", "print(x)\n"]


LONG = re.compile(r"\bstudy\(|\bsweep\(")  # minutes


def readme(): return list(blocks((TOP/"README.md").read_text(encoding="utf-8")))


def test_lines_of_the_readme(home):
    "What the README says in Python runs there, assertions included, up to what takes minutes."
    short = list(takewhile(lambda block: not LONG.search(block), readme()))
    assert len(short) >= 3 and any("dln_nb" in block for block in short)
    python(home, "import matplotlib; matplotlib.use('agg')\n" + "\n".join(short))


@pytest.mark.slow
def test_all_lines_of_the_readme(home):
    guard = "if __name__ == '__main__':\n    import matplotlib; matplotlib.use('agg')\n"
    body = "\n".join("    " + line for block in readme() for line in block.splitlines())
    script = home/"elsewhere"/"readme.py"
    script.write_text(guard + body, encoding="utf-8")
    run(home/"env"/"bin"/"python", script, cwd=home/"elsewhere")
