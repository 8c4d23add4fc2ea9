"""A sentence encoder with half of its layers, distilled on real sentences (docs/sentence-encoder.md)."""
