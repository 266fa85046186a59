"""The works that the notebooks cite: nbs/references.bib, citations in markdown, and where they are.

Quarto turns `[@key]` and `@key` into citations by itself; this is for what is read without it.
"""
import json
import posixpath
import re
from pathlib import Path

# code and formulas hold no citations
VERBATIM = re.compile(r"(^```.*?^```|``.+?``|`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$)",
                      re.DOTALL | re.MULTILINE)
CITATION = re.compile(r"(?<![\w\\])@([A-Za-z]\w*)")
# citations in parentheses: [@a; @b], but not the text of a link
GROUP = re.compile(r"\[([^\[\]]*)\](?![(\[])")
ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)^\}\n", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"  (\w+) = \{(.+?)\}(,?)")

# the page of all works; it does not count as a page that cites them
BIBLIOGRAPHY = "guide/05_bibliography.ipynb"


def read_entries(text):
    "`{key: {field: value}}` of a .bib file with one field per line; ValueError if it is malformed."
    found = {}
    for kind, key, body in ENTRY.findall(text):
        lines = [FIELD.fullmatch(line) for line in body.splitlines()]
        fields = {m[1]: m[2] for m in lines if m}
        commas = [m[3] for m in lines if m] == [","] * (len(lines) - 1) + [""]
        braces = all(value.count("{") == value.count("}") for value in fields.values())
        good = all(lines) and commas and braces and len(fields) == len(lines)
        if key in found or not good:
            raise ValueError(f"{key}: twice, or not one `name = {{value}},` per line")
        found[key] = {"type": kind, **fields}
    rest = re.sub(r"^%.*\n", "", ENTRY.sub("", text), flags=re.MULTILINE).strip()
    if rest: raise ValueError(f"not an entry: {rest[:80]}")
    return found


def entries(nbs):
    "The works of a folder of notebooks."
    return read_entries((Path(nbs)/"references.bib").read_text(encoding="utf-8"))


def names(work):
    "The authors as they stand in a sentence: `Saxe et al.` from four on."
    family = [name.split(",")[0] for name in work["author"].split(" and ")]
    if len(family) > 3: return f"{family[0]} et al."
    return " and ".join([", ".join(family[:-1])] * (len(family) > 1) + family[-1:])


def address(work):
    "Where the work can be found; None if the entry does not say."
    if "doi" in work: return f"https://doi.org/{work['doi']}"
    if "eprint" in work: return f"https://arxiv.org/abs/{work['eprint']}"
    return work.get("url")


def link(text, work):
    return f"[{text}]({address(work)})" if address(work) else text


def in_words(markdown, works):
    "Markdown with citations in words, linked: `[@a; @b]` as `(A and B, 2014; C, 2020)`."
    def one(m, form):
        work = works[m[1]]
        return link(form.format(names(work), work["year"]), work)
    def group(m):
        if not CITATION.search(m[1]): return m[0]
        return f"({CITATION.sub(lambda c: one(c, '{}, {}'), m[1])})"
    parts = VERBATIM.split(markdown)
    parts[::2] = [CITATION.sub(lambda c: one(c, "{} ({})"), GROUP.sub(group, part))
                  for part in parts[::2]]
    return "".join(parts)


def cited(markdown):
    "The keys that markdown cites, in order, with repetitions."
    return [key for part in VERBATIM.split(markdown)[::2] for key in CITATION.findall(part)]


def pages(nbs):
    "`{notebook: [key, …]}` of a folder: what each cites, without the page of all works."
    found = {}
    for path in sorted(Path(nbs).rglob("*.ipynb")):
        name = path.relative_to(nbs)
        hidden = any(part.startswith((".", "_")) for part in name.parts)
        if hidden or name.as_posix() == BIBLIOGRAPHY: continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found[name.as_posix()] = [key for text in texts for key in cited(text)]
    return found


def title(nbs, name):
    "The title of a notebook: its first heading."
    cells = json.loads((Path(nbs)/name).read_text(encoding="utf-8"))["cells"]
    lines = "".join(line for cell in cells for line in [*cell["source"], "\n"]).splitlines()
    return next(line[2:].strip() for line in lines if line.startswith("# "))


def table(nbs):
    "All works and the pages that cite them, as a markdown table of the page of all works."
    where, works = pages(nbs), entries(nbs)
    folder = posixpath.dirname(BIBLIOGRAPHY) # links are relative to it
    places = {name: f"[{title(nbs, name)}]({posixpath.relpath(name, folder)})" for name in where}
    def line(key):
        work = works[key]
        cells = [link(f"{names(work)} ({work['year']})", work), re.sub(r"[{}]", "", work["title"]),
                 ", ".join(places[name] for name, keys in where.items() if key in keys)]
        return f"| {' | '.join(cells)} |"
    order = sorted(works, key=lambda key: (works[key]["author"].casefold(), works[key]["year"]))
    return "\n".join(["| work | title | cited by |", "|---|---|---|", *map(line, order)])
