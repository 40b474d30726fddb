"""The network of all precisions: the onion, what it is compared with, what it costs."""
