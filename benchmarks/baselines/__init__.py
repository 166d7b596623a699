"""Straightforward forms of what frozenseg does faster: written from the described maths, and never slowed."""
