"""The dashboard: a gRPC client of the bandit server that shows the server's runs live in a browser.

It stores nothing. `view` turns the server's messages into what the pages draw (no I/O), `live` keeps one
subscription per run and sends it to every browser, `web` serves pages, JSON and server-sent events.
"""
