"""Health: may traffic come (ready), has startup ended, is the process alive.

Answered from memory. Liveness never looks at dependencies: a restart would not mend them.

report        the answer to one question, in the form of application/health+json
pages         the answers as pages, for whatever serves them
readiness     may traffic come
dependencies  what readiness says about circuits and bulkheads
checks        functions of the user's, asked in the background
startup       has startup ended
liveness      is the process alive: loops and threads that must not get stuck
details       how much of an error is told
"""

from resilient.telemetry.health.checks import check, remove
from resilient.telemetry.health.details import show_details
from resilient.telemetry.health.liveness import Watch, live, watch, watch_loop
from resilient.telemetry.health.pages import PATHS, page
from resilient.telemetry.health.readiness import ready
from resilient.telemetry.health.report import Report
from resilient.telemetry.health.startup import started, startup

__all__ = [
    "PATHS",
    "Report",
    "Watch",
    "check",
    "live",
    "page",
    "ready",
    "remove",
    "show_details",
    "started",
    "startup",
    "watch",
    "watch_loop",
]
