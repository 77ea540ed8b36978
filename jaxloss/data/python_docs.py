"""English prose that every Python carries: the embedded default corpus.

The paragraphs of `pydoc_data.topics` (the language reference) and of the standard library's docstrings, which
are read from its source files without importing them. Grammar, code, doctests, tables, headings and markup
are filtered out, and so is every paragraph that repeats an earlier one, exactly or nearly.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxloss.data.cache import cached_dataset
from jaxloss.data.progress import progress_bar

if TYPE_CHECKING:
    from datasets import Dataset

# Tests and samples repeat the documentation that they test; site-packages is not the standard library.
_SKIPPED_FOLDERS = frozenset(
    ("dist-packages", "idle_test", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo")
)

_BULLET = re.compile(r"^(?:[*+•-]|\(?\d{1,2}[.)]|\[\d{1,2}\]|\(?[a-z]\))\s+(?=\S)")
_ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]+?)(?:\s*<[^`]*>)?`")
_QUOTED = re.compile(r"``([^`]+)``|`([^`']+)[`']_*")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([A-Za-z][\w ./-]*?)\*{1,2}(?![\w*])")
_FOOTNOTE = re.compile(r"\s*\[\d{1,2}\]_?")
_SPACES = re.compile(r"\s+")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_LITERAL = re.compile(r'"([\w.]*[_.\d]\w*|[\w.]+\(\))"')
_CALL = re.compile(r"(?<=\w)\(\)")
_CODE = re.compile(
    r">>>|::|\.\.\s|->|=>|[=!<>+*/-]=|\w=\w|\$\{|%\(|[{}|\\~^]|[!-/:-@\[-^`]{4}|^[#:@<]|\b(?:def|elif) |"
    r"\w\(\w+, \w+|https?:|\.html?\b|\w/\w+/"
)
_ENDED = re.compile(r"[.!?][\"'\u201d\u2019)]*$")
_STARTED = re.compile(r"^[\"'\u201c\u2018(]*[A-Z]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'\u201c(])")
_PUNCTUATION = "\"'\u201c\u201d\u2018\u2019().,;:!?-"
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after all also an and any are as at be because been before but by can do does each for from "
        "has have how if in into is it its may more must no not of on one only or other should so some such "
        "than that the their then there these they this to use used was when where which while will with "
        "without would you your",
    )
)


def python_docs() -> list[str]:
    """Return the corpus: one string per document, its paragraphs separated by blank lines.

    A document is a topic of the language reference or the docstrings of one standard library module.
    Documents come in the order of a hash of their names. That mixes the two kinds, and packages, so that the
    last tenth of the stream resembles the rest; and the order hardly changes between Python versions.

    Raises:
        ValueError: if the standard library is installed without its sources and topics.
    """
    documents = [*_topics(), *_modules()]
    if not documents:
        raise ValueError("this Python carries no documentation: use --corpus with a file")
    documents.sort(key=order)
    seen: set[str] = set()
    texts = []
    for _, text in documents:
        paragraphs = [p for p in prose_paragraphs(text) if not _is_repeat(p, seen)]
        if paragraphs:
            texts.append("\n\n".join(paragraphs))
    return texts


def order(named: tuple[str, object]) -> bytes:
    """Return the key that sorts `(name, text)` pairs: a hash of the name."""
    return hashlib.sha256(named[0].encode()).digest()


def version() -> str:
    """Return what the text depends on: Python's version and this file's own source, as cache keys need it."""
    source = Path(__file__).read_bytes()
    return f"{platform.python_version()}-{hashlib.sha256(source).hexdigest()[:12]}"


def load(cache_dir: Path, *, num_documents: int | None) -> Dataset:
    """Return the corpus as a dataset, extracted once and cached for this Python version."""
    from datasets import Dataset

    path = cache_dir / "corpora" / f"python-docs-{version()}.parquet"
    dataset = cached_dataset(path, lambda: Dataset.from_dict({"text": python_docs()}))
    return dataset if num_documents is None else dataset.take(min(num_documents, len(dataset)))


def prose_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of reStructuredText or plain text that read as English, each as one line."""
    for block in _blocks(text):
        paragraph = _plain(block)
        if _ENDED.search(paragraph) is None:
            # An introduction to a list or to code: keep the sentences before it.
            paragraph = " ".join(_SENTENCE_END.split(paragraph)[:-1])
        if _is_prose(paragraph):
            yield paragraph


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions package it apart
        return
    for name, text in topics.topics.items():
        yield f"topic:{name}", text


def _modules() -> Iterator[tuple[str, str]]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    sources = list(_sources())
    with progress_bar("reading the standard library", total=len(sources), unit="file") as bar:
        for name, path in sources:
            bar.update()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tree = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
            docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
            text = "\n\n".join(docstring for docstring in docstrings if docstring)
            if text:
                yield name, text


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _SKIPPED_FOLDERS.isdisjoint(parts):
            yield f"module:{'/'.join(parts)}", path


def _blocks(text: str) -> Iterator[list[str]]:
    """Split text at blank lines, bullets and changes of indentation."""
    block: list[str] = []
    indent = 0
    for line in [*inspect.cleandoc(text).splitlines(), ""]:
        body = line.strip()
        margin = len(line) - len(line.lstrip())
        bullet = _BULLET.match(body)
        if block and (not body or bullet or margin != indent):
            yield block
            block = []
        if bullet:
            margin += bullet.end()
            body = body[bullet.end() :]
        indent = margin
        if body:
            block.append(body)


def _plain(lines: list[str]) -> str:
    """Join the lines of a paragraph, mending words split at a hyphen, and drop the markup."""
    paragraph = lines[0]
    for line in lines[1:]:
        paragraph += line if re.search(r"\w-$", paragraph) else " " + line
    paragraph = _ROLE.sub(r"\1", paragraph)
    paragraph = _QUOTED.sub(lambda m: m[1] or m[2], paragraph)
    paragraph = _EMPHASIS.sub(r"\1", paragraph)
    paragraph = _LITERAL.sub(r"\1", paragraph)
    paragraph = _FOOTNOTE.sub("", paragraph)
    return _SPACES.sub(" ", paragraph).strip()


def _is_prose(paragraph: str) -> bool:
    words = _WORD.findall(paragraph)
    if (
        len(words) < 8
        or _CODE.search(paragraph)
        or not (_STARTED.match(paragraph) and _ENDED.search(paragraph))
    ):
        return False
    tokens = paragraph.split()
    plain = sum(_WORD.fullmatch(token.strip(_PUNCTUATION)) is not None for token in tokens)
    function = sum(word.lower() in _FUNCTION_WORDS for word in words)
    return plain >= 0.8 * len(tokens) and function >= 0.25 * len(words)


def _is_repeat(paragraph: str, seen: set[str]) -> bool:
    """Tell whether a fifth of a paragraph's six-word sequences are seen; remember those of a new one."""
    words = [word.lower() for word in _WORD.findall(paragraph)]
    shingles = {" ".join(words[i : i + 6]) for i in range(len(words) - 5)}
    if len(shingles & seen) > 0.2 * len(shingles):
        return True
    seen |= shingles
    return False
