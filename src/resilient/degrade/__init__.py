"""What is served while a dependency is down.

degradations  what was served instead, for the caller of the service to see
tier          one thing that a fallback tries
default       a plain value or a function of the user's
failover      another way to the same answer
failover_to   several of them, of which the one that works is remembered
cached        the last good answer
flights       one call for many callers that want the same
queued        a receipt now, and the call later
outbox/       where such calls wait, and what makes them
stores/       where good answers are kept
fallback      the strategy: tiers in order
served        what is said when a tier has served, and when none could
gather        several parts of one answer, without those that cannot be had
partial       such an answer
marked        an answer together with what is degraded in it
"""
