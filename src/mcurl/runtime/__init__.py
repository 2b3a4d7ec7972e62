"""The process: device, threads, seeds, signals, several runs at once, CUDA graphs."""
