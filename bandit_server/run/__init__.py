"""One run: its state as the fold of its events, and its commands. All rules of a run are here.

A command is a pure function: it takes a state and a request, and returns a Decision (events to append, and the answer)
or raises a ServerError. The caller appends the events with compare-and-append and, when the run has changed meanwhile,
folds the events it missed and runs the command again.

    state.py            the state and its fold       rounds.py         select and report
    worker.py           a worker's recent rounds     lifecycle.py      create, join, finish, pause
    reported_rounds.py  rounds that have a report    restore.py        rounds restored from a worker's journal
    old_rounds.py       rounds only in the history   fencing.py        which callers are refused
    summary.py          the run as it is shown       serialization.py  the state as bytes
"""
