"""A hook of MkDocs: pages link to files of the repository outside docs/, which become pages too.

`[...](../examples/own_reward.py)` works on a hosting service and on the site, which shows such a
file under repository/. Markdown files and notebooks become pages, other texts are shown as code. A
folder stands for its README.md. mkdocs.yml may name these pages in its navigation.
"""

import functools
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
DOCS = "docs/"
PREFIX = "repository/"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^()\s#]+)(#[^()\s]*)?(?=\))")
NOTEBOOK = ".ipynb"
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file that a page, the navigation or an added page names."""
    queue = [DOCS + file.src_uri for file in files.documentation_pages()]
    queue += [path.removeprefix(PREFIX) for path in _navigation(config.nav) if PREFIX in path]
    seen = set(queue)
    while queue:
        source = queue.pop()
        if not source.startswith(DOCS):
            files.append(File.generated(config, _address(source), content=_content(source)))
            for name, picture in _pictures(source).items():
                address = posixpath.join(posixpath.dirname(_address(source)), name)
                files.append(File.generated(config, address, content=picture))
        for target in _outside_targets(source):
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to files outside docs/, and all links of their pages, to pages of the site."""
    source = _source(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match) -> str:
        target = _resolve(source, match[1])
        if target is None:
            return match[0]
        return posixpath.relpath(_address(target), folder or ".") + (match[2] or "")

    return LINK.sub(replace, markdown)


def _navigation(nodes: Any) -> list[str]:
    """The paths that the `nav` of mkdocs.yml names."""
    if isinstance(nodes, str):
        return [nodes]
    members = nodes.values() if isinstance(nodes, dict) else nodes or []
    return [path for node in members for path in _navigation(node)]


def _source(address: str) -> str:
    """Path in the repository of the page `address`."""
    if not address.startswith(PREFIX):
        return DOCS + address
    path = address.removeprefix(PREFIX)
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def _address(source: str) -> str:
    """Path in the site of a file of the repository."""
    if source.startswith(DOCS):
        return source.removeprefix(DOCS)
    return PREFIX + source + ("" if source.endswith(".md") else ".md")


def _content(source: str) -> str:
    if source.endswith(NOTEBOOK):
        return _notebook(source)[0]
    text = (ROOT / source).read_text()
    if source.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(source).suffix, "text")
    return f"# {source}\n\n``````{language}\n{text}``````\n"


def _pictures(source: str) -> dict[str, bytes]:
    """File name -> content of the pictures in the outputs of a notebook."""
    return _notebook(source)[1] if source.endswith(NOTEBOOK) else {}


@functools.cache
def _notebook(source: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown and the pictures of a notebook."""
    # of all pages in a folder, pictures have different names
    names = {"output_files_dir": ".", "unique_key": Path(source).stem}
    text, resources = MarkdownExporter().from_filename(str(ROOT / source), dict(names))
    pictures = {posixpath.normpath(name): data for name, data in resources["outputs"].items()}
    return text, pictures


def _resolve(source: str, link: str) -> str | None:
    """The file that a link of the file `source` leads to; None: nothing to change."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / target).is_dir():
        target = f"{target}/README.md"
    if not (ROOT / target).is_file():
        return None
    is_within_docs = source.startswith(DOCS) and target.startswith(DOCS)
    return None if is_within_docs else target


def _outside_targets(source: str) -> list[str]:
    if not source.endswith((".md", NOTEBOOK)) or not (ROOT / source).is_file():
        return []
    links = LINK.finditer((ROOT / source).read_text())
    targets = [_resolve(source, link[1]) for link in links]
    return [target for target in targets if target and not target.startswith(DOCS)]
