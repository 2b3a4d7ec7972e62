"""Trained policies as folders for other people: weights, settings, a model card and a video, without the run.

The layout is that of the Hugging Face hub. Loading such a folder runs no code from it.
"""
