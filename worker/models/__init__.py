"""Models: their modules, how they are loaded, cut and exported."""
