"""What the commands and the library call: a run, a comparison, a check, a look at the host."""
