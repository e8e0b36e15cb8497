"""Messages between members over long-lived HTTP streams, and the transfer of snapshots. See docs in each module:

messages (what is said) -> frames (how it is cut) -> hello (who speaks) -> outgoing / incoming (one stream's two ends)
-> snapshot_serve / snapshot_fetch -> transport (all of it, for one member).
"""
