"""One module for each screen: composed from its state; it asks the hub, and never the network."""
