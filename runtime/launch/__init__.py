"""A container as a value, lowered to a plan of system calls, and the loop that carries it out."""
