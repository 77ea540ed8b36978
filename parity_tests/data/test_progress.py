"""Progress bars: on a terminal only."""

import io

import pytest

from jaxloss.data.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_bar_is_drawn_on_a_terminal_only(stream, monkeypatch):
    screen = stream()
    monkeypatch.setattr("sys.stderr", screen)
    with progress_bar("reading", total=3, unit="file") as bar:
        for _ in range(3):
            bar.update()
    assert ("reading" in screen.getvalue()) == screen.isatty()
