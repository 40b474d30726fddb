"""What many floors use: processes, signals, directories of runs, files, the compiler."""
