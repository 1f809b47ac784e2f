"""Speaks: turns the text of one turn into sound, clause by clause."""
