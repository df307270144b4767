"""What a web service would do: welcome users, whether the mail service is there or not."""

import sys

from mail import send_welcome
from resilient import Receipt

if __name__ == "__main__":
    for user_id in sys.argv[1:]:
        sent = send_welcome(user_id)
        if isinstance(sent, Receipt):
            print(f"{user_id}: will be sent, receipt {sent.id}")
        else:
            print(f"{user_id}: sent as {sent}")
