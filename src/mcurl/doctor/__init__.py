"""``mcurl doctor``: what a machine offers, whether training works on it, and what is missing."""
