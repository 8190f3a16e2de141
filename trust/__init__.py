"""What every party must agree on: bytes in; values or errors out. No I/O, no clock, no logging."""
