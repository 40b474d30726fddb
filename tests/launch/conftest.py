import signal

# Of a shell that runs the tests in the background, or under nohup, these are ignored, and so they
# would be by the scripts that tests send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
