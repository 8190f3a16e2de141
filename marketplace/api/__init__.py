"""The market's door: parse, call one domain function, encode. No rule of the market lives here."""
