"""The works that the notebooks cite: entries of nbs/references.bib, citations in markdown, and where they stand.

Quarto makes citations of `[@key]` and `@key` by itself; this is for what is read without it.
"""
import json
import re
from pathlib import Path

# code and formulas hold no citations
VERBATIM = re.compile(r"(^```.*?^```|``.+?``|`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$)", re.DOTALL | re.MULTILINE)
CITATION = re.compile(r"(?<![\w\\])@([A-Za-z]\w*)")
GROUP = re.compile(r"\[([^\[\]]*)\](?![(\[])") # citations in parentheses: [@a; @b], but not the text of a link
ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)^\}\n", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"  (\w+) = \{(.+?)\}(,?)")

BIBLIOGRAPHY = "guide/05_bibliography.ipynb" # the page of all works, which is none of those that rely on them


def read_entries(text):
    "The entries of a .bib file with one field per line: `{key: {field: value}}`; refuses what it cannot read."
    found = {}
    for kind, key, body in ENTRY.findall(text):
        lines = [FIELD.fullmatch(line) for line in body.splitlines()]
        fields = {m[1]: m[2] for m in lines if m}
        commas = [m[3] for m in lines if m] == [","] * (len(lines) - 1) + [""]
        if key in found or not all(lines) or not commas or len(fields) < len(lines) or any(v.count("{") != v.count("}") for v in fields.values()):
            raise ValueError(f"{key}: twice, or not one `name = {{value}},` per line")
        found[key] = {"type": kind, **fields}
    if rest := re.sub(r"^%.*\n", "", ENTRY.sub("", text), flags=re.MULTILINE).strip(): raise ValueError(f"not an entry: {rest[:80]}")
    return found


def entries(nbs):
    "The works of a folder of notebooks."
    return read_entries((Path(nbs)/"references.bib").read_text(encoding="utf-8"))


def names(work):
    "The authors as they stand in a sentence: `Saxe et al.` from four on."
    family = [name.split(",")[0] for name in work["author"].split(" and ")]
    return f"{family[0]} et al." if len(family) > 3 else " and ".join([", ".join(family[:-1])] * (len(family) > 1) + family[-1:])


def address(work):
    "Where the work can be found; None where the entry does not say."
    if "doi" in work: return f"https://doi.org/{work['doi']}"
    if "eprint" in work: return f"https://arxiv.org/abs/{work['eprint']}"
    return work.get("url")


def link(text, work):
    return f"[{text}]({address(work)})" if address(work) else text


def in_words(markdown, works):
    "Markdown with its citations in words: `[@saxe2014]` as `(Saxe, McClelland and Ganguli, 2014)`, linked."
    def one(m, form): return link(form.format(names(works[m[1]]), works[m[1]]["year"]), works[m[1]])
    def group(m): return f"({CITATION.sub(lambda c: one(c, '{}, {}'), m[1])})" if CITATION.search(m[1]) else m[0]
    parts = VERBATIM.split(markdown)
    parts[::2] = [CITATION.sub(lambda c: one(c, "{} ({})"), GROUP.sub(group, part)) for part in parts[::2]]
    return "".join(parts)


def cited(markdown):
    "The keys that markdown cites, in order, with repetitions."
    return [key for part in VERBATIM.split(markdown)[::2] for key in CITATION.findall(part)]


def pages(nbs):
    "The keys that each notebook of a folder cites, `{path inside the folder: [key, …]}`, without the page of all works."
    files = {p.relative_to(nbs): p for p in sorted(Path(nbs).rglob("*.ipynb"))}
    sources = {name.as_posix(): json.loads(p.read_text(encoding="utf-8"))["cells"] for name, p in files.items()
               if name.as_posix() != BIBLIOGRAPHY and not any(part.startswith((".", "_")) for part in name.parts)}
    return {name: [key for cell in cells if cell["cell_type"] == "markdown" for key in cited("".join(cell["source"]))]
            for name, cells in sources.items()}


def table(nbs):
    "All works and the pages that cite them, as a markdown table."
    where, works = pages(nbs), entries(nbs)
    title = lambda name: re.sub(r"^\d+_", "", Path(name).stem)
    line = lambda key, work: "| " + " | ".join([
        link(f"{names(work)} ({work['year']})", work), re.sub(r"[{}]", "", work["title"]),
        ", ".join(f"[{title(name)}]({name})" for name, keys in where.items() if key in keys)]) + " |"
    order = sorted(works, key=lambda key: (works[key]["author"].casefold(), works[key]["year"]))
    return "\n".join(["| work | title | cited by |", "|---|---|---|", *(line(key, works[key]) for key in order)])
