"""The recipe: what a job distils into what, on which data, and how."""
