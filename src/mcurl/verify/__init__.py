"""Verification of scores: recorded episodes are played again, and their returns compared with the results."""
