"""Real and emulated virtual machines: what starts them, watches them, and clears up after them."""
