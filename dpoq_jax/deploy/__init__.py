"""Files out of trained networks: the ring-by-ring artifact and graphs for other runtimes."""
