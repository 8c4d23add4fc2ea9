"""The documentation names only files, functions and sections that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/deepspeed/README.md")
] + sorted((ROOT / "docs").glob("*.md"))
# The changelog names files as they were.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:bandit_server|benchmarks|deploy|docs|protos|tests|worker)/(?:[\w.*/-]|\{[^}\s]*\})*")
MODULE = re.compile(r"python -m ((?:bandit_server|benchmarks|worker)(?:\.[a-z_]+)+)")
DEFINITION = re.compile(r"`([\w./-]+\.(?:py|js|proto)): ([\w.]+)`")
SECTION = re.compile(r'(docs/[\w-]+\.md),\s+"([^"]+)"')
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", title).lower()).replace(" ", "-") for title in titles
    }


def definitions(path: Path) -> set[str]:
    """Return the names that a file defines: functions, classes, their members and constants, with dots."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".proto":
        return set(re.findall(r"^\s*(?:rpc|message|enum|service) (\w+)", text, re.MULTILINE))
    if path.suffix == ".js":
        return set(re.findall(r"(?:function|class|const|let) (\w+)", text))
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + child.name)
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    visit(ast.parse(text), "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_sections_that_exist(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_fits_120_columns() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = []
    for path in PATH.findall(text):
        pattern = re.sub(r"\{[^}]*\}", "*", path.rstrip(".-"))
        if not any(ROOT.glob(pattern.rstrip("/"))):
            missing.append(path)
    for module in MODULE.findall(text):
        file = ROOT.joinpath(*module.split("."))
        if not (file.with_suffix(".py").exists() or (file / "__main__.py").exists()):
            missing.append(module)
    assert missing == []


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_named_functions_and_classes_exist(page: Path) -> None:
    missing = [
        f"{file}: {name}"
        for file, name in DEFINITION.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / file).exists() or name not in definitions(ROOT / file)
    ]
    assert missing == []


def test_sections_that_the_code_refers_to_exist() -> None:
    sources = [
        path for top in ("bandit_server", "worker", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")
    ]
    sources += (ROOT / "protos").rglob("*.proto")
    references = {
        (file, section) for path in sources for file, section in SECTION.findall(path.read_text(encoding="utf-8"))
    }
    missing = [
        f"{file}: {section}"
        for file, section in sorted(references)
        if f"## {section}" not in (ROOT / file).read_text(encoding="utf-8").splitlines()
    ]
    assert missing == []


def test_a_wrong_name_is_found(tmp_path: Path) -> None:
    source = tmp_path / "some.py"
    source.write_text("LIMIT: int = 3\nclass A:\n    size = 1\n    def run(self): ...\n", encoding="utf-8")
    assert definitions(source) == {"LIMIT", "A", "A.size", "A.run"}
    assert DEFINITION.findall("see `worker/job.py: run`, then") == [("worker/job.py", "run")]
    assert PATH.findall("docs/a.md, not x/docs/b.md; `tests/*.py`") == ["docs/a.md", "tests/*.py"]
