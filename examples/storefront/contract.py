"""What the storefront promises its visitors: by these figures the demo judges it."""

LIMITS = {"page": 0.8, "payment": 1.5}
"""The longest that each kind of request may take, in seconds."""

NEEDS = {"page": ("auth", "recommendations"), "payment": ("auth", "payments")}
"""The upstreams that each kind of request calls."""

CRITICAL = frozenset({"payments"})
"""The upstreams without which a request may fail: fast, and saying when to come back."""

GUEST_RIGHTS = frozenset({"browse", "buy"})
"""What everybody may do. Nobody gets more while auth cannot be asked."""

DRAIN = {"requests": 20.0, "outbox": 2.0}
"""The longest that a process which is told to end waits for its requests, and then its outbox."""
