"""Thinks: writes the agent's side of the conversation, as text deltas."""
