"""The circuit breaker: counting (`window`), deciding (`circuit`, `ramp`), and the strategy.

window    what the last calls came to, at a constant cost for each
ramp      how much is let through on the way back
circuit   the state and its rules; no user code, no clock, no thread
shared    the state in one of pybreaker's storages
breaker   the strategy that users write, a `pybreaker.CircuitBreaker`
keyed     a circuit for each host or tenant
"""
