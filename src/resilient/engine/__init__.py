"""The engine: what a call is, how strategies take turns around it, and what carries it out.

It knows no strategy and no telemetry; everything above it is built from these parts.
From the bottom up:

    clock      what time it is and how time passes; the one place a test replaces
    outcome    what one call came to
    notes      what is said on the errors of others
    limits     when a call must be back, handed down to nested calls
    steps      what a strategy may ask for: an attempt, a pause, a wait
    call       one call on its way through a pipeline
    workers    the bounded threads on which time-limited synchronous calls run
    timers     the shared timers that cut time-limited asynchronous calls
    drivers    carry steps out: on threads, on asyncio
    prober     asks a function in the background, again and again
    measures   what was counted, for each dependency
    reported   what parts of the library tell about themselves, for metrics and health
    strategy   one concern; the base of every strategy
    chain      several strategies, and the function in their midst, made one
    pipeline   strategies in order, and whether all of them are at rest
    lanes      the fast lanes, synchronous and asynchronous
    guard      a function and its pipeline made one
    blocks     a ``with`` block and a pipeline made one
    streams    generators and asynchronous generators, guarded
    draining   units of work, which are ended before the process is
"""
