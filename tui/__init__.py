"""The buyer's window: screens over the client's facts. It imports client, and nothing below it."""
