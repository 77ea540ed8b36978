"""Ctrl-C while a script imports its libraries, which takes a second: one line and exit code 130.

Imported before them, and only by the script that runs; `run_cli` takes over from there.
"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:

    def _quit(signum: int, frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    signal.signal(signal.SIGINT, _quit)
