"""The line and cell magics."""
