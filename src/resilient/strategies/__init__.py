"""The strategies, one file each, from what the user writes down to its parts.

The standard order, outermost first, is that of their ranks: fallback, total timeout, bulkhead,
retry, circuit breaker, rate limit, attempt timeout.
"""
