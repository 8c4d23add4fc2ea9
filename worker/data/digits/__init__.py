"""The digits data: collages of real handwritten digits with texts."""
