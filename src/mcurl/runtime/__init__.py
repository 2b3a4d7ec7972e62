"""The process of a run: device, threads, seeds, signals, parallel runs, CUDA graphs."""
