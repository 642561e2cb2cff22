"""What must give the same on every device: one list for the tests and for the script."""
