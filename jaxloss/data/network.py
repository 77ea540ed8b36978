"""Whether a server answers, found out in seconds: clients retry for half a minute before they say so."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request


def is_reachable(url: str, *, timeout: float = 2.0) -> bool:
    """Tell whether the server of `url` gives any HTTP answer within `timeout` seconds, through proxies."""
    answered = threading.Event()
    done = threading.Event()

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout).close()
            answered.set()
        except urllib.error.HTTPError as error:
            error.close()
            answered.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass
        finally:
            done.set()

    # In a thread: no timeout of a socket bounds the look-up of a name.
    threading.Thread(target=probe, daemon=True).start()
    done.wait(timeout)
    return answered.is_set()
