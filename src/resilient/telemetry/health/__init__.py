"""Health: may traffic come (ready), has startup ended, is the process alive.

Answered from memory. Liveness never looks at dependencies: a restart would not mend them.

report      the answer to one question, in the form of application/health+json
pages       the answers as pages, for whatever serves them
readiness   may traffic come
startup     has startup ended
liveness    is the process alive
dependencies  the lines about circuits
"""

from resilient.telemetry.health.liveness import live
from resilient.telemetry.health.pages import PATHS, page
from resilient.telemetry.health.readiness import ready
from resilient.telemetry.health.report import Report
from resilient.telemetry.health.startup import started, startup

__all__ = ["PATHS", "Report", "live", "page", "ready", "started", "startup"]
