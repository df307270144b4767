"""Calls that are kept until what they need is well again, and then made.

calls      a queued call, its receipt, and the protocol of what takes calls
arguments  the arguments of a call as text, and back
replay     a function as it is called from the outbox: guarded, but never queued again
database   one SQLite file, for many threads and processes
table      the calls in it: put, claimed, done, put off, buried
outbox     the outbox that users have
depth      how full it is, for metrics and health
worker     what makes the calls, as threads or as tasks
attempts   how calls come out that somebody else's queue keeps
"""
