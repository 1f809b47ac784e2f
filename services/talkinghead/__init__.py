"""Shows: moves a persona's face to the sound of one turn, and encodes the pictures."""
