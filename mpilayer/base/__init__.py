"""What every part may use: errors, files, environment variables, tracing, the command line."""
