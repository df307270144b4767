"""Mail that is sent now, or as soon as the mail service is well: the outbox and its function."""

import json
import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from resilient import Dependency, Outbox, circuit_breaker, queued

MAIL = os.environ.get("MAIL_URL", "http://127.0.0.1:9001")

# A worker that was killed leaves its call to the next one when its lease is over.
outbox = Outbox(os.environ.get("OUTBOX", "sqlite:///outbox.db"), lease=5)


class AddressRefused(Exception):
    """The mail service has answered: it will never deliver this. It says nothing against it."""


def mail_is_well() -> None:
    with urlopen(f"{MAIL}/health", timeout=1):
        pass


mail = Dependency(
    "mail",
    failures=OSError,
    timeout=2,
    breaker=circuit_breaker(fail_max=3, probe=mail_is_well, probe_every=1),
)


# The key is what the mail service knows a repeated call by; queued is the number of the user, not
# the address: arguments are kept in clear text.
@mail.with_fallback(queued(outbox, key="welcome:{user_id}", name="mail.send_welcome"), on=OSError)
def send_welcome(user_id: str) -> str:
    about = json.dumps({"user": user_id, "template": "welcome"}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"welcome:{user_id}"}
    try:
        with urlopen(Request(f"{MAIL}/send", about, headers), timeout=5) as response:
            number: str = json.load(response)["id"]
            return number
    except HTTPError as error:
        if error.code == 422:
            raise AddressRefused(user_id) from None
        raise
