"""What runs inside the confidential VM. Imports trust/ and tensor libraries alone."""
