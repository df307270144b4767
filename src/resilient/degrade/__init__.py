"""What is served while a dependency is down.

degradations  what was served instead, for the caller of the service to see
tier          one thing that a fallback tries
default       a plain value or a function of the user's
failover      another way to the same answer
cached        the last good answer
flights       one call for many callers that want the same
stores/       where good answers are kept
fallback      the strategy: tiers in order
gather        several parts of one answer, without those that cannot be had
partial       such an answer
marked        an answer together with what is degraded in it
"""
