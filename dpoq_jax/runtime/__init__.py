"""Holds what many floors use: processes, signals, run directories, files, the compiler."""
