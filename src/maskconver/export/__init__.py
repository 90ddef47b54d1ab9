"""Models as files for other runtimes, each compared with its model before it is kept."""
