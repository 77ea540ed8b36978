"""A folder of text files, none of which can be read, and what is to be said of each."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TRUNCATED = "is not a whole parquet file: "


def _table(**columns) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def _damaged_table(damage: Callable[[bytearray], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        _table(text=[f"{'text ' * 40}{i}" for i in range(50)])(path)
        path.write_bytes(damage(bytearray(path.read_bytes())))

    return write


def _garbled(data: bytearray) -> bytes:
    data[50:90] = b"\xff" * 40
    return data


def _half_utf8(path: Path) -> None:
    ends, text = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, [None, ends, text])}), path)


# File -> its bytes or how to write it, and the message, which begins with the file's path.
BAD_FILES: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "latin.txt": ("a\ncaf\u00e9".encode("latin-1"), ", line 2, is not UTF-8: byte 3 is 0xe9"),
    "bom.txt": (b"\xef\xbb\xbfa\xff", ", line 1, is not UTF-8: byte 1 is 0xff"),
    "utf16.txt": ("text".encode("utf-16"), ", line 1, is not UTF-8: byte 0 is 0xff"),
    "empty.txt": (b"", ": there is no text"),
    "blank.txt": (b" \r\n\n", ": there is no text"),
    "empty.jsonl": (b"", ": there is no text"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n', ", line 2, is not UTF-8: byte 10 is 0xe9"),
    "half.jsonl": (
        b'{"text": "a"}\r\n{"text": "x \\ud83d y"}\r\n',
        r", line 2: 'text' must be text; got \ud83d, half a character, at 2",
    ),
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": \n', ", line 3: not JSON (Expecting value)"),
    "cut.jsonl": (b'{"text": "a', ", line 1: not JSON (Unterminated string starting at)"),
    "deep.jsonl": (b"[" * 100_000, ", line 1: not JSON ("),
    "digits.jsonl": (b'{"text": "a", "n": %s}' % (b"1" * 5000), ", line 1: not JSON (Exceeds the limit"),
    "list.jsonl": (b'["a"]\n', ", line 1: must be an object; got list"),
    "lacks.jsonl": (
        b'{"text": "a"}\n{"txt": "b", "id": 1}',
        ", line 2: no column 'text', it has txt, id (name it with --data.text-column); did you mean txt?",
    ),
    "number.jsonl": (b'{"text": "a"}\n{"text": 3}\n', ", line 2: 'text' must be text; got int"),
    "nested.jsonl": (b'{"text": {"en": "a"}}', ", line 1: 'text' must be text; got dict"),
    "empty.parquet": (b"", f" {TRUNCATED}"),
    "cut.parquet": (_damaged_table(lambda data: data[:-1]), f" {TRUNCATED}"),
    "half.parquet": (_damaged_table(lambda data: data[:100]), f" {TRUNCATED}"),
    "garbled.parquet": (_damaged_table(_garbled), f" {TRUNCATED}"),
    "other.parquet": (b"this is no table", f" {TRUNCATED}"),
    "no_rows.parquet": (_table(text=pa.array([], pa.string())), ": there is no text"),
    "lacks.parquet": (
        _table(id=[1], txt=["a"]),
        ": no column 'text', it has id, txt (name it with --data.text-column); did you mean txt?",
    ),
    "doubled.parquet": (
        lambda path: pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), path),
        ": it has 2 columns 'text': rename all but one",
    ),
    "integers.parquet": (_table(text=[1, 2]), ": column 'text' must be text; got int64"),
    "bytes.parquet": (_table(text=[b"a"]), ": column 'text' must be text; got binary"),
    "utf8.parquet": (_half_utf8, ", row 2, is not UTF-8: byte 0 is 0xff"),
    "list.json": (b'["a", 3]', ", item 2: must be an object; got int"),
    "lines.json": (b'{"text": "a"}\n{"text": 3}', ", line 2: 'text' must be text; got int"),
    "empty.json": (b"[ ]\n", ": there is no text"),
    "cut.json": (b'["a"', ", item 1: not JSON (Expecting ',' delimiter)"),
    "broken.json": (b'["a", {"text": }, "b"]', ", item 2: not JSON (Expecting value)"),
    "closed.json": (b"[]]", ", item 1: not JSON (Extra data)"),
    "two.json": (b'["a"]\n["b"]\n', ", item 2: not JSON (Extra data)"),
    "lacks.csv": (
        b"id,txt\n1,a\n",
        ": no column 'text', it has id, txt (name it with --data.text-column); did you mean txt?",
    ),
    "short.csv": (b'id,text\n1,"a\nb"\n2\n', ", line 4: must have 2 fields; got 1"),
    "quote.csv": (b'id,text\n1,"a" b\n', ", line 2: not CSV (',' expected after '\"')"),
    "picture": (
        b"\x89PNG\r\n",
        ", line 1, is not UTF-8: byte 0 is 0x89; name its encoding with --data.encoding",
    ),
    "plain.gz": (b"text", " is not a whole gzip file: Not a gzipped file"),
    "cut.txt.gz": (gzip.compress(b"text " * 999)[:-20], " is not a whole gzip file: Compressed file ended"),
    "nowhere.txt": (lambda path: None, "no corpus, file or folder named "),
    "folder": (os.mkdir, "no .txt, .jsonl, .parquet, .txt.gz, .jsonl.gz file in the folder "),
    "hidden": (
        lambda path: (
            [(path / name).mkdir(parents=True) for name in (".a", "b")]
            and (path / ".a" / "a.txt").write_text("a")
        ),
        "no .txt, .jsonl, .parquet, .txt.gz, .jsonl.gz file in the folder ",
    ),
}


def write(folder: Path) -> dict[Path, str]:
    """Write them all, and return the beginning of each one's message."""
    messages = {}
    for name, (content, message) in BAD_FILES.items():
        path = folder / name
        content(path) if callable(content) else path.write_bytes(content)
        messages[path] = f"{message}{path}" if message.startswith("no ") else f"{path}{message}"
    return messages
