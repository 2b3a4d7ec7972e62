"""Timings of the parts of a run, each against the textbook's way of doing it, so that every speed-up is a ratio taken
on one machine."""
