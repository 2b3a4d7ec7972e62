"""Reports of finished runs: scores, tables and plots. Only files are read."""
