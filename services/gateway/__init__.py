"""The door: one WebSocket per caller, and the conversation behind it."""
