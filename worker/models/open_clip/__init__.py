"""CoCa and CLIP of open_clip."""
