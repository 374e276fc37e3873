"""What is checked and timed on a machine with a GPU."""
