"""Run folders -> scores and curves. Reads files only."""
