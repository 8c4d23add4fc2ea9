"""One run: its state as the fold of its events, and its commands. The only place that knows the rules.

A command is a pure function: state and request in, a Decision (events to append, and the answer) or a ServerError
out. Whoever calls it appends the events with compare-and-append and, when the run has moved on meanwhile, folds what
it missed and asks again.

    state.py      the state and its fold           rounds.py     select and report
    worker.py     a worker's last rounds           lifecycle.py  create, join, finish, pause
    settled.py    which rounds have a report       restore.py    history given back from a journal
    callers.py    who may call                     recall.py     rounds too old to be at hand
    summary.py    what the server tells of it      snapshot.py   the state as bytes
"""
