"""Distillation: arms and plans, the modular student and teacher, and their losses."""
