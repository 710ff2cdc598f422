"""Links as the repository has them, made links of the site, and the README and the code that they lead to as pages.

The documents link to files, so that they can be read in the repository. Here `../README.md` becomes the first page, and
a file of code becomes a page that shows it. A link whose text is a name in backticks, such as `[`Point.slopes`](FILE)`,
leads to the line that defines it.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Documents outside of docs/, by the page that they become."""
PAGES |= {path: path for path in ("benchmarks/README.md", "benchmarks/peers/README.md", "banks/README.md")}
NOTEBOOKS = "notebooks/"
"""Where the pages of notebooks are."""
CODE = (".py", ".yaml")
"""Endings of the files that become pages of code."""
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINE = re.compile(r'id="(__codelineno-0-\d+)"')
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere in the repository."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "website" / "site.css")))
    linked = {path for file in files.documentation_pages() for path in linked_files(origin(file.src_uri))}
    for path in sorted(path for path in linked if path.endswith(CODE)):
        files.append(File.generated(config, page_of(path), content=code_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page that stands in the repository."""
    path = origin(page.file.src_uri)
    if path is None:
        return markdown
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda found: site_link(found, path, page.file.src_uri), part)
        for part in FENCED.split(markdown)
    )


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the lines of a page of code known, so that links to them are checked."""
    if page.file.src_uri.startswith("source/"):
        page.present_anchor_ids = {*(page.present_anchor_ids or ()), *LINE.findall(content)}
    return content


def origin(uri: str) -> str | None:
    """Which file of the repository a page is; None for a page that is made."""
    path = next((path for path, page in PAGES.items() if page == uri), f"docs/{uri}")
    if uri.startswith(NOTEBOOKS):
        path = f"examples/{uri.removeprefix(NOTEBOOKS).removesuffix('.md')}.ipynb"
    return path if (ROOT / path).is_file() else None


def linked_files(path: str | None) -> set[str]:
    """The files of the repository that a document links to."""
    if path is None:
        return set()
    text = "".join(FENCED.split((ROOT / path).read_text(encoding="utf-8"))[::2])
    return {resolved(found["target"], path)[0] for found in LINK.finditer(text) if inside(found)}


def inside(found: re.Match[str]) -> bool:
    """Whether a link leads to a file of the repository, and not to another address or within its page."""
    return not re.match(r"[a-z]+:|#", found["target"])


def resolved(target: str, path: str) -> tuple[str, str]:
    """The file that a link of a document leads to, from the root of the repository, and its anchor."""
    place, _, anchor = target.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), place)), anchor


def page_of(path: str) -> str:
    """The page, or the picture, that a file of the repository becomes."""
    if path.endswith(CODE):
        return f"source/{path}.md"
    if path.endswith(".ipynb"):
        return f"{NOTEBOOKS}{Path(path).stem}.md"
    return PAGES.get(path, path.removeprefix("docs/"))


def site_link(found: re.Match[str], path: str, uri: str) -> str:
    """A link of a document as the site has it."""
    if not inside(found):
        return found[0]
    file, anchor = resolved(found["target"], path)
    if file.endswith(".py") and (name := re.fullmatch(r"`([A-Za-z_.]+)`", found["text"])):
        anchor = f"__codelineno-0-{line_of(ROOT / file, name[1])}" if not name[1].endswith(".py") else ""
    place = posixpath.relpath(page_of(file), posixpath.dirname(uri) or ".")
    return f"[{found['text']}]({place}{f'#{anchor}' if anchor else ''})"


def line_of(file: Path, name: str) -> int:
    """The line of a file that defines a class, a function, a method (`Class.method`) or a constant.

    Raises ValueError where the file defines no such name.
    """
    body = ast.parse(file.read_text(encoding="utf-8")).body
    line = 0
    for part in name.split("."):
        node = next((node for node in body if part in defined(node)), None)
        if node is None:
            raise ValueError(f"{file} does not define {name}")
        line, body = node.lineno, getattr(node, "body", [])
    return line


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def code_page(path: str) -> str:
    """A page that shows a file; the search leaves it out."""
    language = "python" if path.endswith(".py") else "yaml"
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    return f'---\nsearch: {{exclude: true}}\n---\n\n# {path}\n\n````{language} linenums="1"\n{text}\n````\n'
