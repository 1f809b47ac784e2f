"""Listens: turns a session's microphone into speech events and text."""
