"""One module a contestant. Each runs in the contestant's own virtual environment, in its own process."""
