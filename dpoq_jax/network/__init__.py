"""Runs the network of all precisions, the onion, and what it is compared with."""
