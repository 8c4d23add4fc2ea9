"""The dashboard: a gRPC client of the bandit server that shows what the server believes, live, in a browser.

It keeps nothing of its own and changes nothing: `upstream` talks to the server, `views` folds what it says,
`feed` fans it out to browsers, `app` serves pages, JSON and server-sent events.
"""
