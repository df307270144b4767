"""A script that survives a connection that breaks: one decorator, and nothing else."""

import sys
from urllib.error import HTTPError
from urllib.request import urlopen

from resilient import retry


def may_pass(error: BaseException) -> bool:
    """A broken connection and a server in trouble may pass; "no such page" will not."""
    return isinstance(error, OSError) and not (isinstance(error, HTTPError) and error.code < 500)


@retry(on=may_pass, attempts=4)
def fetch(url: str) -> bytes:
    with urlopen(url, timeout=10) as response:
        content: bytes = response.read()
        return content


if __name__ == "__main__":
    sys.stdout.buffer.write(fetch(sys.argv[1]))
