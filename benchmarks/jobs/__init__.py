"""What runs in a process of its own and says what it measured as JSON on its last line."""
