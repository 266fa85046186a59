"What the pages refer to is there: links, anchors, images, symbols; and the site can typeset them."
import re
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_in_step import NAMES, NBS, PATHS, TOP, each_notebook, raw, source
from test_package import MODULES as FILES, face

from dln_nb._modidx import d as MODIDX

FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
MATH = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$"
                  r"|(?<![\\$])\$(?!\$)(.+?)(?<![\\$])\$(?!\$)", re.DOTALL)


def markdown(name): return [source(c) for c in raw(name)["cells"] if c["cell_type"] == "markdown"]
def without_code(text): return CODE.sub("`code`", FENCE.sub("", text))
def prose(text): return MATH.sub("$…$", without_code(text))


# Links

# {dln_nb.part.module.symbol: page.html#anchor}
SYMBOLS = {name: page for symbols in MODIDX["syms"].values() for name, (page, _) in symbols.items()}


def targets(text):
    "Where links and images of a markdown text lead."
    text = prose(text)
    kinds = (r"\]\(\s*<?([^)\s>]+)", r"\b(?:href|src)=[\"']([^\"']+)", r"(?m)^\[[^\]]+\]:\s*(\S+)")
    return [target for kind in kinds for target in re.findall(kind, text)]


def slug(heading):
    "The identifier that Pandoc, and so Quarto, gives a heading."
    text = re.sub(r"!?\[([^\]]*)\](?:\([^)]*\))?", r"\1", heading)
    text = re.sub(r"\s+", "-", re.sub(r"[^\w\-. ]", "", text).strip()).lower()
    return re.sub(r"^[\W\d_]+", "", text) or "section" # it begins with a letter


def anchors(texts, page=""):
    "What a link can name behind # on a page: headings, explicit identifiers, documented symbols."
    text, found = FENCE.sub("", "\n\n".join(texts)), set()
    for heading in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE):
        if re.search(r"\{[^}]*#([\w.:-]+)[^}]*\}$", heading): continue  # explicit, see below
        name = slug(heading)
        names = [name, *(f"{name}-{k}" for k in range(1, len(found) + 1))]
        found.add(next(n for n in names if n not in found))
    explicit = (r"\{[^}\n]*#([\w.:-]+)[^}\n]*\}", r"\bid=[\"']([^\"']+)")
    found.update(name for kind in explicit for name in re.findall(kind, text))
    return found | {at.split("#")[1] for at in SYMBOLS.values() if at.split("#")[0] == page}


def page_of(path):
    "The page that nbdev makes of a notebook."
    path = path.relative_to(NBS)
    name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())
    return path.with_name(name).with_suffix(".html").as_posix()


def broken(target, file, texts=(), attachments=()):
    "What is wrong with a link in a file, if anything. Addresses on the web are not looked up."
    if re.match(r"(https?|mailto):", target): return None
    if target.startswith("attachment:"):
        attached = target.removeprefix("attachment:") in attachments
        return None if attached else f"{target}: not attached"
    place, _, anchor = target.partition("#")
    path = (file.parent/place).resolve() if place else file
    if re.match(r"[a-z]+:|/", target, re.IGNORECASE) or not path.is_relative_to(TOP):
        return f"{target}: leads out of the repository"
    if not path.exists(): return f"{target}: not there"
    if not anchor: return None
    if path.suffix == ".ipynb":
        texts = markdown(path.relative_to(NBS).as_posix()) if place else texts
        there = anchors(texts, page_of(path))
    else: there = anchors([path.read_text(encoding="utf-8")])
    if anchor in there: return None
    return f"{target}: no such heading or symbol there; there are {', '.join(sorted(there))}"


@pytest.mark.parametrize("heading, identifier", [  # from Pandoc's manual
    ("Heading identifiers in HTML", "heading-identifiers-in-html"),
    ("Maître d'hôtel", "maître-dhôtel"), ("*Dogs*?--in *my* house?", "dogs--in-my-house"),
    ("[HTML], [S5], or [RTF]?", "html-s5-or-rtf"), ("3. Applications", "applications"),
    ("33", "section")])
def test_slug(heading, identifier): assert slug(heading) == identifier


NETWORK, TASK = "foundations/01_network.ipynb", "foundations/02_task.ipynb"


def test_a_broken_link_is_found():
    file = NBS/"index.ipynb"
    texts = ["# A title", "## Twice\n\n## Twice\n\n### Named {#by-hand}\n```\n# no heading\n```"]
    good = [NETWORK, "../README.md", "#a-title", "#twice", "#twice-1", "#by-hand",
            f"{NETWORK}#layer_widths", "https://jmlr.org/nowhere", "studies/02_spectra.ipynb"]
    bad = ["foundations/01_nothing.ipynb", "foundations/network.html", "#twice-2", "#no-heading",
           "#named", f"{NETWORK}#no_such_symbol", "../../elsewhere.md", "/etc/hosts",
           "file:///etc/hosts", "attachment:a.png"]
    assert [t for t in good if broken(t, file, texts)] == []
    assert [t for t in bad if not broken(t, file, texts)] == []
    text = "[a](b.ipynb) ![c](d.png 'e') <img src=\"f.png\"> `[g](h)` $[i](j)$"
    found = targets(text + "\n```\n[k](l)\n```\n[m]: n.md")
    assert found == ["b.ipynb", "d.png", "f.png", "n.md"]


@each_notebook
def test_links_and_images_lead_somewhere(name):
    cells = [c for c in raw(name)["cells"] if c["cell_type"] == "markdown"]
    texts = list(map(source, cells))
    wrong = [error for c in cells for t in targets(source(c))
             if (error := broken(t, NBS/name, texts, c.get("attachments", {})))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_readme_lead_somewhere(name):
    text = (TOP/name).read_text(encoding="utf-8")
    wrong = [error for t in targets(text) if (error := broken(t, TOP/name, [text]))]
    assert not wrong, "\n".join(wrong)


# The way through the book; that the sidebar lists every notebook once: test_in_step.py

def way_on(name, cells):
    "What is wrong with the end of a page; None where nothing is."
    if not cells or cells[-1]["cell_type"] != "markdown": return "the page ends without a link"
    last = source(cells[-1]).strip().splitlines()[-1]
    onward = [t for t in targets(last) if t.partition("#")[0].endswith(".ipynb")]
    if not onward: return f"no link to another page in the last line: {last}"
    nowhere = any(broken(t, NBS/name) or (NBS/name).parent/t == NBS/name for t in onward)
    if nowhere: return f"leads nowhere: {last}"
    chapter = re.match(r"\d+_", Path(name).name) and not name.startswith(("guide/", "studies/"))
    if chapter and name != LAST and "Next: " not in last:
        return f"a chapter ends with 'Next: …', not: {last}"
    return None


LAST = max(n for n in NAMES if "/" not in n and re.match(r"\d+_", n))  # nothing comes after it


def test_an_end_without_way_on_is_found():
    cells = lambda *texts: [dict(cell_type="markdown", source=[t]) for t in texts]
    way = lambda *texts: way_on(NETWORK, cells(*texts))
    assert way("# a", "Next: [b](02_task.ipynb).") is None
    assert way_on("index.ipynb", cells(f"Begin [here]({NETWORK}).")) is None
    assert way() and way("Next: [b](02_task.ipynb).\n\nMore.") and way("See [b](02_task.ipynb).")
    assert way("Next: [b](02_nothing.ipynb).") and way("Next: [b](01_network.ipynb).")
    code = dict(cell_type="code", source=["1"])
    assert way_on(NETWORK, [*cells("Next: [b](02_task.ipynb)."), code])


@each_notebook
def test_a_page_leads_on(name):
    problem = way_on(name, raw(name)["cells"])
    assert problem is None, problem


# Names in backticks, of which nbdev makes links

MODULES = {module.removeprefix("dln_nb."): set(names) for module, names in MODIDX["syms"].items()}
HOMES = defaultdict(list)  # {symbol: modules that define it}; nbdev links to the first
for _module, _names in MODULES.items():
    for _name in _names: HOMES[_name.removeprefix(f"dln_nb.{_module}.")].append(_module)
WORDS = set(re.findall(r"\w+", "\n".join(FILES.values())))
FACE = {*face(), "__version__"}
LIBRARIES = {"python", "matplotlib", "xarray", "torch", "numpy", "scipy", "joblib", "numba"}


def meant(path):
    "Modules that a dotted name may begin with: `(module, the rest of the name)`."
    parts = path.split(".")
    for k in range(len(parts), 0, -1):
        head = ".".join(parts[:k])
        for module in FILES:
            if module == head or module.endswith(f".{head}"): yield module, parts[k:]


def in_package(path):
    "Is there such a part, module or member of a module, or name of the face?"
    if path.split(".")[0] in FACE or any(m.startswith(f"{path}.") for m in FILES): return True
    return any(not rest or f"dln_nb.{module}.{'.'.join(rest)}" in MODULES.get(module, ())
               or len(rest) == 1 and hasattr(import_module(f"dln_nb.{module}"), rest[0])
               for module, rest in meant(path))


def misnamed(word, page_module=None, words=frozenset()):
    "What is wrong with a word in backticks, if anything: it is a symbol, or occurs in code."
    plain = word.removesuffix("()")
    dotted = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", plain)
    if not dotted: return None  # code, a file, an option
    own = plain.removeprefix("dln_nb.").removeprefix("dln.")
    if plain != own or "." in plain and plain not in HOMES and any(meant(plain)):
        return None if in_package(own) else f"`{word}`: not in dln_nb"
    homes = HOMES.get(plain, [])
    if len(homes) > 1 and page_module != homes[0]:
        return f"`{word}` is in {', '.join(homes)}: nbdev links to the first; name the module"
    known = homes or plain in LIBRARIES or (TOP/plain).exists()
    known = known or all(part in WORDS | words for part in plain.split("."))
    known = known or "." in plain and find_spec(plain.split(".")[0])
    return None if known else f"`{word}`: no symbol of dln_nb or of a library, and in no code"


def test_a_wrong_name_is_found():
    for good in ("layer_widths", "layer_widths()", "network.layer_widths", "dln_nb.foundations",
                 "dln_nb.foundations.network", "dln_nb.foundations.network.layer_widths",
                 "dln_nb.run", "dln.Experiment.label", "Experiment.label", "own_name", "a=1",
                 "x.nc", "dln_nb.cli.COMMANDS", "torch.nn.MSELoss"):
        assert misnamed(good, words={"own_name"}) is None, good
    for bad in ("layer_width_s", "dln_nb.networks", "dln_nb.foundations.network.width_s",
                "network.width_s", "dln.no_such_name", "Experiment.label_s", "no_such_function()",
                "no_library.loss"):
        assert misnamed(bad), bad


@each_notebook
def test_names_in_backticks_exist(name):
    cells = [source(c) for c in raw(name)["cells"] if c["cell_type"] == "code"]
    shown = cells + [block[0] for text in markdown(name) for block in FENCE.finditer(text)]
    words = set(re.findall(r"\w+", "\n".join(shown)))
    own = next((m for m, symbols in MODULES.items()
                if any(SYMBOLS[s].split("#")[0] == page_of(NBS/name) for s in symbols)), None)
    said = {word for text in markdown(name) for line in FENCE.sub("", text).splitlines()
            for word in re.findall(r"`([^`\s]+)`", line)}
    wrong = [error for word in sorted(said) if (error := misnamed(word, own, words))]
    assert not wrong, "\n".join(wrong)


# Formulas

# What MathJax 3 knows with the packages base and ams, which it always loads:
# docs.mathjax.org/en/v3.2/input/tex/macros. Only what the pages use: before a macro is added here,
# look it up there.
BASE = set("""
    alpha beta gamma delta epsilon varepsilon eta theta kappa lambda mu nu xi pi rho sigma tau chi
    psi Delta Theta Lambda Sigma Phi ell sum prod int partial nabla infty top perp dots cdots cdot
    times otimes pm mp mapsto to leftarrow langle rangle le ge ne neq gg sim approx propto subset
    in ni notin mid min max inf exp ln log cos tanh sinh arctan bmod
    frac sqrt hat bar dot tilde overline underbrace left right big Big bigl bigr Bigl Bigr
    mathcal mathbf mathbb mathrm mathsf rm text quad qquad begin end
""".split()) | set(",;! {}|\\#")
AMS = set("operatorname lvert rvert lVert rVert tfrac binom lesssim".split())
ENVIRONMENTS = {"pmatrix"}


def tex_problems(tex):
    "What is wrong with a formula."
    words = re.findall(r"\\([A-Za-z]+|.)", tex, re.DOTALL)
    found = [f"\\{w} is not known to be one of MathJax 3: look it up, then add it to this file"
             for w in dict.fromkeys(words) if w not in BASE | AMS]
    begins, ends = (re.findall(rf"\\{word}\s*\{{(.*?)\}}", tex) for word in ("begin", "end"))
    found += [f"environment {e} is not known to be one of MathJax 3"
              for e in {*begins, *ends} - ENVIRONMENTS]
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
        tex, line = match[1] or match[2], text[:match.start()].rpartition("\n")[2]
        found += [f"${tex}$: {problem}" for problem in tex_problems(tex)]
        if match[2] and (tex != tex.strip() or text[match.end():match.end() + 1].isdigit()):
            found.append(f"${tex}$: Pandoc wants no space inside the dollars, no digit behind them")
        if line.lstrip().startswith("|") and re.search(r"(?<!\\)\|", tex):
            found.append(f"${tex}$: a bare | ends a cell of the table")
    if re.search(r"(?<!\\)\$", rest := MATH.sub("", text)):
        found.append(f"a dollar without its partner: {rest[:80]}")
    return found


@pytest.mark.parametrize("text", [
    "$\\notamacro$", "$\\varGamma$", "$x", "$$x$", "$ x$", "$x$2", "$\\left( x$", "${x$", "$}x{$",
    "$\\begin{pmatrix} x$", "$$\\begin{align} x \\end{align}$$", "$$x\n\ny$$",
    "| a |\n|---|\n| $|x|$ |", "$a$ and $b"])
def test_a_broken_formula_is_found(text): assert formula_problems(text)


@pytest.mark.parametrize("text", [
    "$x$ and `$y` and $$\\lVert z\\rVert \\quad \\{a\\}$$", "costs \\$3",
    "$\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}$", "```\n$HOME\n```",
    "| $\\lVert x\\rVert$ |", "$\\left( x \\right)$"])
def test_a_good_formula_is_none(text): assert formula_problems(text) == []


@each_notebook
def test_formulas_can_be_typeset(name):
    wrong = [problem for text in markdown(name) for problem in formula_problems(text)]
    assert not wrong, "\n".join(wrong)


# Paths of a machine (outputs: test_in_step.py)

def own_paths(text):
    return PATHS.findall(text) + re.findall(r"[A-Za-z]:\\{1,2}Users|file:///", text)


def test_a_path_of_a_machine_is_found():
    bad = ("/home/me/x", "in /tmp/x", "'/home/x'", "C:\\Users\\me", "C:\\\\Users\\\\me", "file:///x",
           "lib/python3/site-packages/x")
    good = ("results/home/x", "https://example.org/home/", "/proc/x", "tmp/x")
    assert all(map(own_paths, bad)) and not any(map(own_paths, good))


@each_notebook
def test_no_path_of_a_machine_in_a_cell(name):
    texts = []
    for cell in raw(name)["cells"]:
        texts.append(source(cell))
        for out in cell.get("outputs", []):
            texts += map("".join, (out.get("text", ""), out.get("data", {}).get("text/plain", "")))
    wrong = [path for text in texts for path in own_paths(text)]
    assert not wrong, wrong


# Names in backticks become links by themselves; inside a link text they would be linked twice

@each_notebook
def test_no_name_in_backticks_inside_a_link(name):
    inside = re.compile(r"\[[^\]\n]*`[^`\n]+`[^\]\n]*\]\(")
    wrong = [found for text in markdown(name) for found in inside.findall(text)]
    assert not wrong, wrong
