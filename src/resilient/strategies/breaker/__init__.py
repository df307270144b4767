"""The circuit breaker: counting (`window`), deciding (`circuit`, `ramp`), and the strategy.

From the bottom up:

states      closed, open, half-open, and a change from one to another
admission   what a call is told that asks to be let in
window      what the last calls came to, at a constant cost for each
onset       when an outage began
pace        how long calls usually take
ramp        how much is let through on the way back
rules       when a circuit opens and closes, made of what users write
circuit     the state, and what changes it; no user code, no clock, no thread
shared      the state in one of pybreaker's storages
listeners   pybreaker's listeners
exclusions  errors that say nothing against the dependency
registry    every breaker that has a name
announce    what is counted and said of a change
interface   the circuit as an object that people look at, and change by hand
rejection   the error of a call that is rejected
passage     what a call goes through
breaker     the strategy that users write, a `pybreaker.CircuitBreaker`
keyed       a circuit for each host or tenant
"""
