"""A device of hawser, written from proto/WIRE.md alone: it must be enough.

Nothing here was taken from other code of the project. The messages, numbers and limits are read from
the page itself when the suite runs, so a page that says something else than the servers is found out.
"""
