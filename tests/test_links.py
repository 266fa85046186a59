"What the pages refer to is there: links, anchors, images, symbols; and the formulas are ones that the site can typeset."
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_in_step import NAMES, NBS, PATHS, TOP, each_notebook, raw, source

from dln_nb._modidx import d as MODIDX

FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
MATH = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<![\\$])\$(?!\$)(.+?)(?<![\\$])\$(?!\$)", re.DOTALL)


def markdown(name): return [source(c) for c in raw(name)["cells"] if c["cell_type"] == "markdown"]
def without_code(text): return CODE.sub("`code`", FENCE.sub("", text))
def prose(text): return MATH.sub("$…$", without_code(text))


# Links

SYMBOLS = {name: page for module in MODIDX["syms"].values() for name, (page, _) in module.items()}  # {dln_nb.module.symbol: page.html#anchor}


def targets(text):
    "Where links and images of a markdown text lead."
    text = prose(text)
    return re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"\b(?:href|src)=[\"']([^\"']+)", text) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)


def slug(heading):
    "The identifier that Pandoc, and so Quarto, gives a heading."
    text = re.sub(r"!?\[([^\]]*)\](?:\([^)]*\))?", r"\1", heading)
    text = re.sub(r"\s+", "-", re.sub(r"[^\w\-. ]", "", text).strip()).lower()
    return re.sub(r"^[\W\d_]+", "", text) or "section" # it begins with a letter


def anchors(texts, page=""):
    "All that a link can name behind # on a page: headings, explicit identifiers, documented symbols."
    text, found = FENCE.sub("", "\n\n".join(texts)), set()
    for heading in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE):
        if explicit := re.search(r"\{[^}]*#([\w.:-]+)[^}]*\}$", heading): found.add(explicit[1]); continue
        name = slug(heading)
        found.add(next(n for k in range(len(found) + 1) if (n := f"{name}-{k}" if k else name) not in found))
    found |= set(re.findall(r"\{[^}\n]*#([\w.:-]+)[^}\n]*\}", text)) | set(re.findall(r"\bid=[\"']([^\"']+)", text))
    return found | {place.split("#")[1] for place in SYMBOLS.values() if place.split("#")[0] == page}


def page_of(path):
    "The page that nbdev makes of a notebook."
    path = path.relative_to(NBS)
    return path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())).with_suffix(".html").as_posix()


def broken(target, file, texts=(), attachments=()):
    "What is wrong with a link in a file; None where nothing is. Addresses on the web are not looked up."
    if re.match(r"(https?|mailto):", target): return None
    if target.startswith("attachment:"): return None if target.removeprefix("attachment:") in attachments else f"{target}: not attached"
    place, _, anchor = target.partition("#")
    path = (file.parent/place).resolve() if place else file
    if re.match(r"[a-z]+:|/", target, re.IGNORECASE) or not path.is_relative_to(TOP): return f"{target}: leads out of the repository"
    if not path.exists(): return f"{target}: not there"
    if not anchor: return None
    if path.suffix == ".ipynb": there = anchors(markdown(path.relative_to(NBS).as_posix()) if place else texts, page_of(path))
    else: there = anchors([path.read_text(encoding="utf-8")])
    return None if anchor in there else f"{target}: no such heading or symbol there; there are {', '.join(sorted(there))}"


@pytest.mark.parametrize("heading, identifier", [ # the examples of Pandoc's manual, "Headings and sections"
    ("Heading identifiers in HTML", "heading-identifiers-in-html"), ("Maître d'hôtel", "maître-dhôtel"), ("*Dogs*?--in *my* house?", "dogs--in-my-house"),
    ("[HTML], [S5], or [RTF]?", "html-s5-or-rtf"), ("3. Applications", "applications"), ("33", "section")])
def test_slug(heading, identifier): assert slug(heading) == identifier


def test_a_broken_link_is_found():
    file, texts = NBS/"index.ipynb", ["# A title", "## Twice\n\n## Twice\n\n### Named {#by-hand}\n```\n# no heading\n```"]
    good = ["00_network.ipynb", "../README.md", "#a-title", "#twice", "#twice-1", "#by-hand", "00_network.ipynb#layer_widths", "https://jmlr.org/nowhere", "studies/spectra.ipynb"]
    bad = ["00_nothing.ipynb", "network.html", "#twice-2", "#no-heading", "#named", "00_network.ipynb#no_such_symbol", "../../elsewhere.md", "/etc/hosts", "file:///etc/hosts", "attachment:a.png"]
    assert [t for t in good if broken(t, file, texts)] == [] and [t for t in bad if not broken(t, file, texts)] == []
    assert targets("[a](b.ipynb) ![c](d.png 'e') <img src=\"f.png\"> `[g](h)` $[i](j)$\n```\n[k](l)\n```\n[m]: n.md") == ["b.ipynb", "d.png", "f.png", "n.md"]


@each_notebook
def test_links_and_images_lead_somewhere(name):
    cells = [c for c in raw(name)["cells"] if c["cell_type"] == "markdown"]
    texts = list(map(source, cells))
    wrong = [error for c in cells for t in targets(source(c)) if (error := broken(t, NBS/name, texts, c.get("attachments", {})))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_readme_lead_somewhere(name):
    text = (TOP/name).read_text(encoding="utf-8")
    wrong = [error for t in targets(text) if (error := broken(t, TOP/name, [text]))]
    assert not wrong, "\n".join(wrong)


# The way through the book (that the sidebar lists every notebook once is tested in test_in_step.py)

def way_on(name, cells):
    "What is wrong with the end of a page; None where nothing is."
    if not cells or cells[-1]["cell_type"] != "markdown": return "the page ends without a link to the next one"
    last = source(cells[-1]).strip().splitlines()[-1]
    onward = [t for t in targets(last) if t.partition("#")[0].endswith(".ipynb")]
    if not onward: return f"no link to another page in the last line: {last}"
    if any(broken(t, NBS/name) or (NBS/name).parent/t == NBS/name for t in onward): return f"leads nowhere: {last}"
    chapter = re.match(r"\d+_", Path(name).name) and name != max(n for n in NAMES if re.match(r"\d+_", n))
    return f"a chapter ends with 'Next: …', not: {last}" if chapter and "Next: " not in last else None


def test_an_end_without_way_on_is_found():
    cells = lambda *texts: [dict(cell_type="markdown", source=[t]) for t in texts]
    assert way_on("00_network.ipynb", cells("# a", "Next: [b](01_task.ipynb).")) is None
    assert way_on("index.ipynb", cells("Begin [here](00_network.ipynb).")) is None
    for bad in ([], cells("Next: [b](01_task.ipynb).\n\nMore."), cells("Next: [b](01_nothing.ipynb)."), cells("Next: [b](00_network.ipynb)."), cells("See [b](01_task.ipynb)."),
                [*cells("Next: [b](01_task.ipynb)."), dict(cell_type="code", source=["1"])]):
        assert way_on("00_network.ipynb", bad)


@each_notebook
def test_a_page_leads_on(name):
    problem = way_on(name, raw(name)["cells"])
    assert problem is None, problem


# Names in backticks, of which nbdev makes links

MODULES = {module.removeprefix("dln_nb."): set(symbols) for module, symbols in MODIDX["syms"].items()}
HOMES = {}  # {symbol without its module: modules that define it}; nbdev links to the first
for _module, _symbols in MODIDX["syms"].items():
    for _name in _symbols: HOMES.setdefault(_name.removeprefix(f"{_module}."), []).append(_module.removeprefix("dln_nb."))
WORDS = set(re.findall(r"\w+", "\n".join(p.read_text(encoding="utf-8") for p in (TOP/"dln_nb").glob("*.py") if p.name != "_modidx.py")))


def misnamed(word, page_module=None, words=frozenset()):
    "What is wrong with a word in backticks; None where nothing is: a symbol, or a name that occurs in code."
    plain = word.removesuffix("()")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", plain): return None  # code, a file, an option
    head, *rest = plain.removeprefix("dln_nb.").split(".")
    if plain.startswith("dln_nb.") or head in MODULES and rest and plain not in HOMES:
        known = head in MODULES and (not rest or f"dln_nb.{head}.{'.'.join(rest)}" in MODULES[head] or len(rest) == 1 and hasattr(import_module(f"dln_nb.{head}"), rest[0]))
        return None if known else f"`{word}`: not in dln_nb"
    homes = HOMES.get(plain, [])
    if len(homes) > 1 and page_module != homes[0]: return f"`{word}` is in {', '.join(homes)}: nbdev links to the first; name the module"
    if homes or (TOP/plain).exists() or all(part in WORDS | words for part in plain.split(".")) or "." in plain and find_spec(plain.split(".")[0]): return None
    return f"`{word}`: no symbol of dln_nb or of a library, and nowhere in its code or that of this page"


def test_a_wrong_name_is_found():
    for good in ("layer_widths", "layer_widths()", "dln_nb.network", "dln_nb.network.layer_widths", "network.layer_widths", "Experiment.label", "dln_nb.experiment.run", "own_name", "a=1", "x.nc", "dln_nb.cli.COMMANDS", "torch.nn.MSELoss"):
        assert misnamed(good, words={"own_name"}) is None, good
    for bad in ("layer_width_s", "dln_nb.networks", "dln_nb.network.width_s", "network.width_s", "Experiment.label_s", "no_such_function()", "no_library.loss", "run"):
        assert misnamed(bad), bad
    assert misnamed("run", "commands") is None


@each_notebook
def test_names_in_backticks_exist(name):
    shown = [source(c) for c in raw(name)["cells"] if c["cell_type"] == "code"] + [block[0] for text in markdown(name) for block in FENCE.finditer(text)]
    words = set(re.findall(r"\w+", "\n".join(shown)))
    own = next((m for m, symbols in MODULES.items() if any(SYMBOLS[s].split("#")[0] == page_of(NBS/name) for s in symbols)), None)
    wrong = [error for text in markdown(name) for line in FENCE.sub("", text).splitlines() for word in re.findall(r"`([^`\s]+)`", line) if (error := misnamed(word, own, words))]
    assert not wrong, "\n".join(wrong)


# Formulas

# What MathJax 3 knows with the packages base and ams, which it always loads (docs.mathjax.org/en/v3.2/input/tex/macros).
# Only what the pages use: before a macro is added here, look it up there.
BASE = set("""
    alpha beta gamma delta epsilon varepsilon eta theta kappa lambda mu nu xi pi rho sigma tau chi psi Delta Theta Lambda Sigma Phi ell
    sum prod int partial nabla infty top perp dots cdots cdot times otimes pm mp mapsto to leftarrow langle rangle
    le ge ne neq gg sim approx propto subset in ni notin mid min max inf exp ln log cos tanh sinh arctan bmod
    frac sqrt hat bar dot tilde overline underbrace left right big Big bigl bigr Bigl Bigr
    mathcal mathbf mathbb mathrm mathsf rm text quad qquad begin end
""".split()) | set(",;! {}|\\#")
AMS = set("operatorname lvert rvert lVert rVert tfrac binom lesssim".split())
ENVIRONMENTS = {"pmatrix"}


def tex_problems(tex):
    "What is wrong with a formula."
    words = re.findall(r"\\([A-Za-z]+|.)", tex, re.DOTALL)
    found = [f"\\{w} is not known to be one of MathJax 3: look it up, then add it to this file" for w in dict.fromkeys(words) if w not in BASE | AMS]
    begins, ends = (re.findall(rf"\\{word}\s*\{{(.*?)\}}", tex) for word in ("begin", "end"))
    found += [f"environment {e} is not known to be one of MathJax 3" for e in {*begins, *ends} - ENVIRONMENTS]
    if sorted(begins) != sorted(ends): found.append("\\begin and \\end differ")
    if words.count("left") != words.count("right"): found.append("\\left and \\right differ")
    depth, bare = 0, re.sub(r"\\.", "", tex, flags=re.DOTALL)
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0: break
    if depth: found.append("braces do not balance")
    if re.search(r"\n\s*\n", tex): found.append("a blank line inside")
    return found


def formula_problems(text):
    "What is wrong with the formulas of a markdown text."
    text, found = without_code(text), []
    for match in MATH.finditer(text):
        tex, line = match[1] or match[2], text[text.rfind("\n", 0, match.start()) + 1:match.start()]
        found += [f"${tex}$: {problem}" for problem in tex_problems(tex)]
        if match[2] and (tex != tex.strip() or text[match.end():match.end() + 1].isdigit()): found.append(f"${tex}$: Pandoc wants no space inside the dollars, and no digit behind them")
        if line.lstrip().startswith("|") and re.search(r"(?<!\\)\|", tex): found.append(f"${tex}$: a bare | ends a cell of the table")
    if re.search(r"(?<!\\)\$", MATH.sub("", text)): found.append(f"a dollar without its partner: {MATH.sub('', text)[:80]}")
    return found


@pytest.mark.parametrize("text", ["$\\notamacro$", "$\\varGamma$", "$x", "$$x$", "$ x$", "$x$2", "$\\left( x$", "${x$", "$}x{$", "$\\begin{pmatrix} x$", "$$\\begin{align} x \\end{align}$$",
                                  "$$x\n\ny$$", "| a |\n|---|\n| $|x|$ |", "$a$ and $b"])
def test_a_broken_formula_is_found(text): assert formula_problems(text)


@pytest.mark.parametrize("text", ["$x$ and `$y` and $$\\lVert z\\rVert \\quad \\{a\\}$$", "costs \\$3", "$\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}$", "```\n$HOME\n```", "| $\\lVert x\\rVert$ |", "$\\left( x \\right)$"])
def test_a_good_formula_is_none(text): assert formula_problems(text) == []


@each_notebook
def test_formulas_can_be_typeset(name):
    wrong = [problem for text in markdown(name) for problem in formula_problems(text)]
    assert not wrong, "\n".join(wrong)


# Paths of a machine (outputs: test_in_step.py)

def own_paths(text): return PATHS.findall(text) + re.findall(r"[A-Za-z]:\\{1,2}Users|file:///", text)


def test_a_path_of_a_machine_is_found():
    assert all(map(own_paths, ("/home/me/x", "in /tmp/x", "'/root/x'", "C:\\Users\\me", "C:\\\\Users\\\\me", "file:///x", "lib/python3/site-packages/x")))
    assert not any(map(own_paths, ("results/home/x", "https://example.org/home/", "/proc/x", "tmp/x")))


@each_notebook
def test_no_path_of_a_machine_in_a_cell(name):
    texts = [source(c) for c in raw(name)["cells"]] + ["".join(text) for c in raw(name)["cells"] for out in c.get("outputs", []) for text in [out.get("text", ""), *(v for k, v in out.get("data", {}).items() if k == "text/plain")]]
    wrong = [path for text in texts for path in own_paths(text)]
    assert not wrong, wrong
