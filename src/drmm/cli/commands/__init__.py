"""What each command is called, takes and says of itself; it imports what it needs when it is called."""
