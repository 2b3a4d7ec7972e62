"""A run on disk and on the screen: its folder, checkpoints, logs, display, and what it was made with."""
